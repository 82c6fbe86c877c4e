#!/usr/bin/env bash
# Encodes on a machine that has a GPU and Python's PyTorch, but neither Rust nor a network. Its Python must load
# SQLite extensions. Not yet run on a GPU.
#   benches/gpu.sh pack           here: library, ONNX Runtime, model, photographs as parts in target/gpu/parts
#   benches/gpu.sh take PART...   there: keeps parts as they are carried over
#   benches/gpu.sh run            there: correctness against the CPU, then the figures, as text and a line of JSON
# RUNTIME names the folder `onnxruntime/capi` of an unpacked wheel onnxruntime-gpu (the pinned CPU library if not
# given), MODEL a model folder (models/default), STORE what `take` keeps (/tmp/dualpath-encode), PART_MB the
# size of a part (60), DEVICE what encodes (cuda; with cpu all but the GPU itself is tried), LD_LIBRARY_PATH
# where CUDA and cuDNN lie, if PyTorch's own packages do not bring them.
set -euo pipefail
cd "$(dirname "$0")/.."

store="${STORE:-/tmp/dualpath-encode}"
target="${CARGO_TARGET_DIR:-target}"
parts="$target/gpu/parts"
. scripts/parts

pack() {
    local place runtime
    cargo build --quiet --release --package dualpath
    scripts/onnxruntime >/dev/null
    scripts/photos
    runtime="${RUNTIME:-$target/release}"
    rm -rf "$parts" && mkdir -p "$parts/whole/photos"
    place="$parts/whole"
    cp "$target"/release/libdualpath.so benches/gpu.py benches/train/twin.py "$place/"
    # In one folder: ONNX Runtime looks for its providers beside itself.
    cp --dereference "$runtime"/libonnxruntime.so.* "$place/"
    [ -z "${RUNTIME:-}" ] || cp "$runtime"/libonnxruntime_providers_{shared,cuda}.so "$place/"
    cp --recursive "${MODEL:-models/default}" "$place/model"
    cp demo/photos/*.{jpg,png} "$place/photos/"
    tar --create --directory "$place" . | xz -T0 -3 | in_parts 60
    rm -r "$place"
}

run() {
    local found
    [ -e "$store/libdualpath.so" ] || {
        whole | tar --extract --xz --directory "$store"
    }
    # What PyTorch brings of CUDA lies in packages beside it.
    found="$(python3 -c 'import glob, os, torch; print(":".join(glob.glob(os.path.dirname(torch.__file__) + "/../nvidia/*/lib")))' || true)"
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found"
    python3 "$store/gpu.py" --device "${DEVICE:-cuda}"
}

[ $# -gt 0 ] || { sed -n '2,12s/^# \?//p' "$0" >&2; exit 2; }
"$@"
