#!/usr/bin/env bash
# Builds the extensions with sanitizers into a tree of their own and runs the native tests there.
# usage: tools/sanitize.sh [address,undefined|thread] [pytest arguments; default: tests/core]
set -euo pipefail
cd "$(dirname "$0")/.."

kinds=${1:-address,undefined}
shift || true
[ $# -gt 0 ] || set -- tests/core
python=$PWD/.venv/bin/python
tree=$PWD/build/sanitize-${kinds//,/-}     # a comma would end the options below

mkdir -p "$tree"
HEADRACE_SANITIZE=$kinds "$python" setup.py -q build_ext --build-lib "$tree" --build-temp "$tree/objects"
# The Python half beside the instrumented modules.
(cd serve && find . -type f ! -name '*.so' ! -path '*/__pycache__/*' -exec cp --parents -t "$tree/serve" {} +)

preload=()
for kind in ${kinds//,/ }; do
    case $kind in
        address) preload+=("$(g++ -print-file-name=libasan.so)") ;;
        thread) preload+=("$(g++ -print-file-name=libtsan.so)") ;;
        undefined) ;;
        *) echo "tools/sanitize.sh: unknown sanitizer '$kind'" >&2; exit 2 ;;
    esac
done
# The C++ library has to be there before the sanitizer looks for what it intercepts.
preload+=("$(g++ -print-file-name=libstdc++.so.6)")

# pytest captures what is written to stderr, so reports go to files.
reports=$tree/report
rm -f "$reports".*
# Leaks fail the run, the interpreter's own aside: it frees little of what it holds at exit.
export ASAN_OPTIONS=detect_leaks=1:malloc_context_size=3:abort_on_error=1:allocator_may_return_null=1:log_path=$reports
export LSAN_OPTIONS=suppressions=$PWD/tools/leak-suppressions.txt:print_suppressions=0
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$reports
# The interpreter and ONNX Runtime are not instrumented: what they do among themselves looks like races and is not ours.
export TSAN_OPTIONS=second_deadlock_stack=1:ignore_noninstrumented_modules=1:history_size=4:log_path=$reports
# Safe path: interpreters that tests start find the instrumented modules, not those of the checkout.
export PYTHONSAFEPATH=1 PYTHONMALLOC=malloc PYTHONPATH=$tree:$PWD
# Leaks of the programs that tests run are not ours.
run='import os, sys, pytest; os.environ["ASAN_OPTIONS"] += ":detect_leaks=0"; sys.exit(pytest.main())'
status=0
LD_PRELOAD="${preload[*]}" "$python" -c "$run" -o pythonpath= -o timeout=300 -p no:cacheprovider "$@" || status=$?
if compgen -G "$reports.*" > /dev/null; then
    cat "$reports".*
    exit 1
fi
exit $status
