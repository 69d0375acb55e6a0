"""Sliders in a notebook: the figure of the values that they stand at."""

from collections.abc import Callable, Iterable
from typing import Any


def sliders(draw: Callable[..., Any], **choices: Iterable[Any]) -> None:
    """Show a slider for each argument of ``draw``, and below them what it returns for the values chosen.

    A page that is only read shows a line of text instead; so does a kernel without ipywidgets.

    Args:
        draw: from the chosen values, by name, to something that a cell can show, such as ``show(figure, alt)``.
        choices: the values of each slider, in order; it begins at the middle one.
    """
    names = ", ".join(choices)
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        print(f"Sliders for {names} need ipywidgets, which comes with jupyter; the figure below shows one choice.")
        return
    controls = {}
    for name, values in choices.items():
        options = list(values)
        controls[name] = ipywidgets.SelectionSlider(
            options=options, value=options[len(options) // 2], description=name, continuous_update=False
        )
    drawn = ipywidgets.interactive_output(lambda **chosen: display(draw(**chosen)), controls)
    box = ipywidgets.VBox([*controls.values(), drawn])
    text = f"Sliders for {names}: run this cell in Jupyter to move them. The figure below shows one choice."
    display({**box._repr_mimebundle_(), "text/plain": text}, raw=True)
