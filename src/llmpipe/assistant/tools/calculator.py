"""An arithmetic evaluator that cannot do anything else; runs alone in a process of its own.

The text is parsed to Python's syntax tree and only the node types below are computed: numbers,
+ - * / // % **, parentheses, and `len("...")` and `"...".count("x")` on string literals. There are no
names, no attributes, no other calls, no `eval`. Every result is checked for size before it is
computed, so nothing takes long: `9**9**9` is refused, not tried.

Started by `python.py` as `python -I -S calculator.py`: one JSON string per line in, one out. It imports
nothing of llmpipe, so that the process starts in milliseconds.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import sys
import warnings
from collections.abc import Callable

MAX_CHARS = 1000
"""Of the text; the parser's own time and depth follow from it."""

MAX_DEPTH = 50
"""Of the syntax tree; far below Python's recursion limit of 1000."""

MAX_BITS = 3300
"""Of an integer: about 1000 decimal digits, below the 4300 that Python turns into text."""

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}

_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


class Refused(Exception):
    """The text asks for something that is not arithmetic, or too large."""


def evaluate(text: str) -> str:
    """Return the value of the expression as text, or `error: ` and the reason."""
    try:
        if len(text) > MAX_CHARS:
            raise Refused(f"the expression is longer than {MAX_CHARS} characters")
        tree = ast.parse(text.strip(), mode="eval")
        return str(_value(tree.body, depth=0))
    except Refused as error:
        return f"error: {error}"
    except ZeroDivisionError:
        return "error: division by zero"
    except OverflowError:
        return "error: the result is too large"
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return "error: this is not an arithmetic expression"


def _value(node: ast.expr, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise Refused(f"the expression is nested more than {MAX_DEPTH} levels deep")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _checked(number)
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _binary(type(op), _value(left, depth + 1), _value(right, depth + 1))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand, depth + 1))
        case ast.Call(func=ast.Name(id="len"), args=[ast.Constant(value=str(string))], keywords=[]):
            return len(string)
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(string)), attr="count"),
            args=[ast.Constant(value=str(part))],
            keywords=[],
        ):
            return string.count(part)
    raise Refused('only numbers, + - * / // % **, len("...") and "...".count("...") are known')


def _binary(op: type[ast.operator], left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int):
        if op is ast.Mult:
            _check_bits(left.bit_length() + right.bit_length() - 1)
        if op is ast.Pow and right > 0:
            # A power of 0, 1 or -1 is as small as its base, whatever the exponent.
            _check_bits((abs(left).bit_length() - 1) * right + 1)
    result = _BINARY[op](left, right)
    if isinstance(result, complex):
        raise Refused("the result is not a real number")
    return _checked(result)


def _checked(number: Number) -> Number:
    if isinstance(number, int):
        _check_bits(number.bit_length())
    elif not math.isfinite(number):
        raise Refused("the result is too large")
    return number


def _check_bits(n_bits: int) -> None:
    if n_bits > MAX_BITS:
        raise Refused("the result is too large")


def _limit_resources() -> None:
    """Bound memory and forbid files, on systems that can; the parent watches the time."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve() -> None:
    """Answer one line of stdin with one line of stdout until stdin ends."""
    _limit_resources()
    warnings.simplefilter("ignore")  # Python warns of `1()` while parsing it
    for line in sys.stdin:
        sys.stdout.write(json.dumps(evaluate(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
