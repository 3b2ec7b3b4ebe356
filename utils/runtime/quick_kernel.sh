#!/bin/sh
# Jittor calls: THIS .../asm_tuner.py --cc_path=COMPILER ARGUMENTS
# Its asm_tuner starts Python, compiles with -g and runs the assembler apart, all for a pass that
# changes assembly and is off. The compiler alone makes the same code.
shift
compiler=${1#--cc_path=}
shift
exec "$compiler" "$@"
