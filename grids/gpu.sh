#!/usr/bin/env bash
# The GPU quarter of an hour: bash grids/gpu.sh PART; --help lists the parts.
# It needs a Python with the packages below; GPU_PYTHON names another one. Nothing is
# installed where they are all there.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
unset GFR_HOME

NEEDS="torch torchvision numpy PIL yaml tqdm sklearn threadpoolctl filelock"
# looked for, not imported: that takes seconds of the lease
LOOK="import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"

for python in "${GPU_PYTHON:-}" .venv/bin/python python3 python; do
    [ -n "$python" ] || continue
    # shellcheck disable=SC2086
    if [ "$python" = "${GPU_PYTHON:-}" ] && ! "$python" -c "$LOOK" $NEEDS 2>/dev/null; then
        echo "gpu.sh: GPU_PYTHON is '$python', which is not there or lacks some of $NEEDS; name another, or none." >&2
        exit 2
    fi
    # shellcheck disable=SC2086
    if "$python" -c "$LOOK" $NEEDS 2>/dev/null; then
        exec "$python" -m benchmarks.gpu "$@"
    fi
done

case "${1:---help}" in # help is no reason to install anything
-h | --help)
    sed -n '/^HELP = /,/^"""/p' benchmarks/gpu/__main__.py | sed '1d;$d'
    exit 0
    ;;
esac

echo "gpu.sh: no Python here has all of $NEEDS; trying pip" >&2
mkdir -p data/gpu
if python3 -m venv data/gpu/venv &&
    data/gpu/venv/bin/pip install --quiet -r requirements.txt; then
    exec data/gpu/venv/bin/python -m benchmarks.gpu "$@"
fi
echo "gpu.sh: it could not be installed; bring a Python that has it (GPU_PYTHON=...)." >&2
exit 2
