"""The run-time type checker that pytest applies to the package: beartype, with integers welcome as floats."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
