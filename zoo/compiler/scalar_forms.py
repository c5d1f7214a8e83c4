"""How operations on single numbers are written in C, and how that is compiled."""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["BINARY", "FILLS", "HEAD", "MOVES", "UNARY", "build_library"]

HEAD = """#include <math.h>
static double relu(double x) { return x > 0 || x != x ? x : 0.0; }
static double softplus(double x) { return x > 20 ? x : log1p(exp(x)); }
static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static double logsigmoid(double x) { return (x < 0 ? x : 0.0) - log1p(exp(-fabs(x))); }
static double xlogy(double x, double y) { return y != y ? y : (x == 0 ? 0.0 : x * log(y)); }
static double larger(double a, double b) { return a > b || a != a ? a : b; }
static double smaller(double a, double b) { return a < b || a != a ? a : b; }
static double softplus_back(double g, double x) {
  double z = exp(x); return x > 20 ? g : g * z / (z + 1.0); }
static double logsigmoid_back(double g, double x) {
  double z = exp(-fabs(x)), s = x < 0 ? 1.0 : -1.0;
  return g * ((x < 0 ? 1.0 : 0.0) - s * z / (1.0 + z)); }
static double digamma(double x) {
  double r = 0; if (x <= 0) return NAN;
  while (x < 10) { r -= 1.0 / x; x += 1.0; }
  double f = 1.0 / (x * x);
  return r + log(x) - 0.5 / x - f * (1.0/12 - f * (1.0/120 - f * (1.0/252 - f * (1.0/240
    - f * (1.0/132 - f * (691.0/32760 - f / 12)))))); }
"""
UNARY = {
    "neg": "-{0}",
    "exp": "exp({0})",
    "log": "log({0})",
    "log1p": "log1p({0})",
    "expm1": "expm1({0})",
    "sqrt": "sqrt({0})",
    "rsqrt": "1.0 / sqrt({0})",
    "reciprocal": "1.0 / {0}",
    "abs": "fabs({0})",
    "sigmoid": "sigmoid({0})",
    "tanh": "tanh({0})",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "lgamma": "lgamma({0})",
    "digamma": "digamma({0})",
    "erf": "erf({0})",
    "floor": "floor({0})",
    "relu": "relu({0})",
    "square": "{0} * {0}",
    "sign": "({0} > 0) - ({0} < 0)",
    "sgn": "({0} > 0) - ({0} < 0)",
    "isnan": "{0} != {0}",
    "logical_not": "{0} == 0",
    "bitwise_not": "{0} == 0",
}
BINARY = {
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "maximum": "larger({0}, {1})",
    "minimum": "smaller({0}, {1})",
    "pow": "pow({0}, {1})",
    "xlogy": "xlogy({0}, {1})",
    "atan2": "atan2({0}, {1})",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "logical_and": "{0} != 0 && {1} != 0",
    "bitwise_and": "{0} != 0 && {1} != 0",
    "logical_or": "{0} != 0 || {1} != 0",
    "bitwise_or": "{0} != 0 || {1} != 0",
    "sigmoid_backward": "{0} * (1.0 - {1}) * {1}",
    "tanh_backward": "{0} * (1.0 - {1} * {1})",
    "log_sigmoid_backward": "logsigmoid_back({0}, {1})",
}
MOVES = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze"),
        *("select", "slice", "expand", "flip", "constant_pad_nd", "select_backward", "clone"),
        *("slice_backward", "detach", "alias", "diagonal", "unbind", "split", "roll", "repeat"),
        *("split_with_sizes", "tril", "triu", "index_select", "index", "as_strided"),
        *("lift_fresh_copy", "diagonal_copy", "expand_copy", "view_copy", "diag_embed"),
        "diagonal_backward",
    )
)
FILLS = frozenset(
    ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zeros", "ones")
)


def build_library(source: str, path: str) -> str:
    """Compile C code into a library at `path`.

    Raises:
        OSError: the compiler is missing or fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise OSError("no C++ compiler")
    command = [compiler, "-x", "c", "-O1", "-fno-math-errno", "-ffp-contract=off", "-shared"]
    done = subprocess.run(
        [*command, "-fPIC", "-o", path, "-", "-lm"],
        input=source,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{compiler} failed: {(done.stderr.splitlines() or [''])[0][:200]}")
    return path
