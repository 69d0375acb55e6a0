"""The plan of an exchange of tokens between devices. The library counts its bytes on average only."""

import numpy as np

from moe_numpy.typing import Array, Int


def all_to_all_plan(
    token: Int[Array, " N"],
    expert: Int[Array, " N"],
    device_of_token: Int[Array, " T"],
    device_of_expert: Int[Array, " E"],
    num_devices: int,
) -> tuple[Int[Array, "D D"], Int[Array, " N"], Int[Array, " N"]]:
    """Which rows every device sends to every other, so that each token reaches the devices of its experts.

    Assignment n sends a row, the vector of token[n], from the token's device to the expert's. A token with two experts
    on one device sends two rows there. A row that stays where it is counts too.

    Args:
        token, expert: the assignments, in any order.
        device_of_token: where each token lies.
        device_of_expert: where each expert lies; neighbours need not lie together, nor all devices hold as many.
        num_devices: D.

    Returns:
        rows [D, D]: rows[i, j] is the number of rows that device i sends to device j.
        send [N]: the assignments in the order of the send buffers: by source device, there by destination, and there
        in the order of the list.
        receive [N]: the same assignments in the order in which they arrive: by destination, there by source, and
        there in the order of the list.
    """
    source, destination = device_of_token[token], device_of_expert[expert]
    rows = np.bincount(source * num_devices + destination, minlength=num_devices**2).reshape(num_devices, num_devices)
    send = np.argsort(source * num_devices + destination, kind="stable")
    receive = np.argsort(destination * num_devices + source, kind="stable")
    return rows, send, receive
