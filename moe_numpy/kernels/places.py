"""Where the keys and values of one row are: the fields of a row of ``places``, a table of 64-bit integers.

The first four are addresses: where the row's own key and value go, and where those of its sequence begin. Of the latter
the row sees BEGIN ... END-1.
"""

NEW_KEY, NEW_VALUE, KEYS, VALUES, BEGIN, END = range(6)
PLACES = 6  # fields
