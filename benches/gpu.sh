#!/usr/bin/env bash
# Encodes on a machine that has a GPU and Python's PyTorch, but neither Rust nor a network. Its Python must load
# SQLite extensions.
#   benches/gpu.sh pack           here: library, ONNX Runtime, models, photographs as parts in target/gpu/parts
#   benches/gpu.sh take PART...   there: keeps parts as they are carried over
#   benches/gpu.sh run            there: correctness against the CPU, then the figures, as text and a line of JSON
# RUNTIME names the folder `onnxruntime` of an unpacked wheel onnxruntime-gpu for the Python there (the pinned CPU
# library if not given), MODEL a model folder of `train half`, which is measured beside models/default, STORE what
# `take` keeps (/tmp/dualpath-encode), PART_MB the size of a part (60), DEVICE what encodes (cuda; with cpu all but
# the GPU itself is tried), STEPS some of "models pytorch", LIMIT seconds for all (300), LD_LIBRARY_PATH where
# CUDA and cuDNN lie, if PyTorch's own packages do not bring them.
set -euo pipefail
cd "$(dirname "$0")/.."

store="${STORE:-/tmp/dualpath-encode}"
target="${CARGO_TARGET_DIR:-target}"
parts="$target/gpu/parts"
. scripts/parts

pack() {
    local place
    cargo build --quiet --release --package dualpath
    scripts/onnxruntime >/dev/null
    scripts/photos
    rm -rf "$parts" && mkdir -p "$parts/whole"/{photos,models,onnxruntime/capi}
    place="$parts/whole"
    cp "$target"/release/libdualpath.so "$place/"
    cp --recursive models/default "$place/models/int8"
    [ -z "${MODEL:-}" ] || cp --recursive "$MODEL" "$place/models/half"
    cp demo/photos/*.{jpg,png} "$place/photos/"
    # In one folder: ONNX Runtime looks for its providers beside itself.
    case "${RUNTIME:-}" in
        "") cp --dereference "$target"/release/libonnxruntime.so.* "$place/onnxruntime/capi/" ;;
        *) cp --recursive "$RUNTIME/." "$place/onnxruntime/" ;;
    esac
    # Likes beside likes, the large one last.
    (cd "$place" && find . -type f -not -name '*_cuda.so' | sort && find . -type f -name '*_cuda.so') |
        tar --create --directory "$place" --files-from - | xz -T0 -9 | in_parts 60
    rm -r "$place"
}

unpacked() {
    if command -v xz >/dev/null; then
        xz --decompress --stdout
    else
        python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.stdin.buffer), sys.stdout.buffer)'
    fi
}

run() {
    local found
    [ -e "$store/libdualpath.so" ] || {
        whole | unpacked | tar --extract --directory "$store"
    }
    # What PyTorch brings of CUDA lies in packages beside it.
    found="$(python3 -c 'import glob, os, sysconfig; print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))' || true)"
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found"
    export ORT_DYLIB_PATH PYTHONUNBUFFERED=1
    ORT_DYLIB_PATH="$(echo "$store"/onnxruntime/capi/libonnxruntime.so.*)"
    # A package, where it is one, is the one whose library the extension opens.
    [ ! -e "$store/onnxruntime/__init__.py" ] || export PYTHONPATH="$store${PYTHONPATH:+:$PYTHONPATH}"
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true
    nproc
    echo "CUDA's libraries: $LD_LIBRARY_PATH"
    python3 benches/gpu.py --store "$store" --device "${DEVICE:-cuda}" --limit "${LIMIT:-300}" \
        ${STEPS:+--steps "$STEPS"}
}

[ $# -gt 0 ] || { sed -n '2,12s/^# \?//p' "$0" >&2; exit 2; }
"$@"
