"""The words and signs of arithmetic, and a query as a list of them."""

import re
import unicodedata


class NotArithmetic(ValueError):
    """A query that is no arithmetic, or not entirely; the message says where reading ended and what was expected."""


SIGNS = {
    "×": "*", "⋅": "*", "·": "*", "∗": "*", "÷": "/", "∕": "/", "⁄": "/", "−": "-", "–": "-", "√": " sqrt ",
    "²": " squared ", "³": " cubed ", "½": "(1/2)", "¼": "(1/4)", "¾": "(3/4)", "⅓": "(1/3)", "⅔": "(2/3)",
}  # fmt: skip
TOKEN = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\d.])|\.\d+|\*\*|//|[a-z']+|[-+*/%^()!,=?.;:]")
OPENINGS = (
    "please", "hey", "hi", "hello", "ok", "so", "well", "and", "now", "then", "quick question", "what is", "what's",
    "whats", "what are", "what do you get for", "what do you get if you", "what does", "what would be", "how much is",
    "how much are", "how much would", "how much does", "calculate", "compute", "evaluate", "work out", "solve",
    "find", "simplify", "tell me", "give me", "show me", "can you", "could you", "would you", "will you", "i need",
    "i want", "do you know", "what about", "how about", "the result of", "result of", "the value of", "value of",
    "the answer to", "answer to", "let me know", "the", "do", "figure out", "what will", "what", "is", "maths",
    "math", "i'd like to know", "quick maths", "quick math", "my question is",
)  # fmt: skip
CLOSINGS = (
    "please", "thanks", "thank you", "equal to", "equals what", "equals", "equal", "is what", "is", "make", "makes",
    "come to", "be", "give", "for me", "exactly", "in total", "altogether", "pls", "then", "now", "=", "?", ".", ":",
    ",",
)  # fmt: skip
BINARY = {
    "plus": "+", "added to": "+", "+": "+", "minus": "-", "-": "-", "take away": "-", "times": "*",
    "multiplied by": "*", "multiplied with": "*", "x": "*", "*": "*", "divided by": "/", "over": "/", "/": "/",
    "//": "//", "mod": "%", "modulo": "%", "%": "%", "to the power of": "**", "to the power": "**",
    "raised to the power of": "**", "raised to the power": "**", "raised to": "**", "**": "**", "^": "**",
}  # fmt: skip
LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 3}
FUNCTIONS = {
    "square root": "sqrt", "sqrt": "sqrt", "root": "sqrt", "cube root": "cbrt", "cbrt": "cbrt",
    "absolute value": "abs", "abs": "abs", "factorial": "factorial", "gcd": "gcd", "greatest common divisor": "gcd",
    "highest common factor": "gcd", "lcm": "lcm", "least common multiple": "lcm", "lowest common multiple": "lcm",
    "average": "mean", "mean": "mean", "max": "max", "maximum": "max", "min": "min", "minimum": "min",
    "round": "round",
}  # fmt: skip
LISTS = {"sum": "+", "total": "+", "product": "*", "difference": "-", "quotient": "/"}
SHARES = {
    "half": 2, "third": 3, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
    "hundredth": 100,
}  # fmt: skip
SHARES |= {f"{name}s": parts for name, parts in SHARES.items() if name != "half"} | {"halves": 2}
FACTORS = {"double": 2, "twice": 2, "triple": 3, "thrice": 3, "quadruple": 4}
VERBS = {"add": "+", "subtract": "-", "deduct": "-", "take": "-", "multiply": "*", "divide": "/"}
LAST = ("that", "it", "this", "the result", "the last result", "the answer", "result")
DIVISIONS = ("the remainder of", "remainder of", "the remainder when", "remainder when", "what remains when")


def tokens(query: str) -> list[str]:
    """The words, numbers and signs of a query, in lower case. NotArithmetic for another sign."""
    text = "".join(SIGNS.get(c, c) for c in query)
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    if re.search(r"\b0[xbo][\da-f]", text):
        raise NotArithmetic("expected decimal numbers, got a hexadecimal, octal or binary one")
    grouped = re.search(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)", text)
    if grouped and re.search(
        r"\b(?:sum|total|product|average|mean|gcd|lcm|max|min|divisor|factor|multiple|maximum|minimum)s?\b", text
    ):
        raise NotArithmetic(
            f"{grouped[0]!r} may be one number or several: leave the comma out, or put a space behind it"
        )
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)", lambda m: m[0].replace(",", ""), text)  # 1,234
    if re.search(r"\S%[+-]\S", text):
        raise NotArithmetic("'%-' without spaces may be percent or modulo: write 'percent -' or 'mod -'")
    text = re.sub(r"(?<=\s)%\s*-(?=[\d(-])", "mod -", text)  # "17 % -5" is modulo, "50% - 5" is not
    text = re.sub(r"(?<=\d)\s*x\s*(?=[\d(-])", " x ", text)
    text = re.sub(r"\bper cent\b|\bpct\b", "percent", text)
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)  # twenty-three
    found, at = [], 0
    for match in TOKEN.finditer(text):
        if text[at : match.start()].strip():
            break
        found.append(match[0])
        at = match.end()
    if text[at:].strip():
        raise NotArithmetic(f"expected numbers and operations, got {text[at:].strip()[:20]!r}")
    return found
