#!/usr/bin/env bash
# Trains on a machine that has a GPU and Python's PyTorch 2.11 (CUDA 13), but neither Rust nor a network.
#   training/gpu.sh pack                here: binary, run files and data as parts in training/out/gpu/parts
#   training/gpu.sh take PART...        there: keeps parts as they are carried over
#   training/gpu.sh run FOLDER RUN...   there: trains runs such as flickr8k-mobile, prints their table and
#                                       leaves FOLDER/result.*: log, curves, recall, model folder of each
#   training/gpu.sh unpack FOLDER TO    here: the results of `run`, from the parts in FOLDER
# DATA names the data (../shared/data), STORE what `take` keeps (/tmp/dualpath), PART_MB the size of a
# part (34), SET changes to the run files ("stage.0.epochs=3 seed=2"), DEVICE what trains (cuda).
set -euo pipefail
cd "$(dirname "$0")/.."

store="${STORE:-/tmp/dualpath}"
parts=training/out/gpu/parts
. scripts/parts

pack() {
    local data target
    data="$(realpath "${DATA:-../shared/data}")"
    [ -e "$data/flickr8k" ] || { echo "skipped: no $data/flickr8k"; exit 0; }
    scripts/libtorch >/dev/null
    cargo build --quiet --release --package training
    target="${CARGO_TARGET_DIR:-target}"
    rm -rf "$parts" && mkdir -p "$parts/bin"
    strip -o "$parts/bin/train" "$target/release/train"
    tar --create --directory "$parts/bin" train --directory "$PWD/training" runs \
        --directory "$PWD/benches/train" table.py --directory "$data/.." "$(basename "$data")" \
        --transform "s,^$(basename "$data"),data," | xz -T0 -1 | in_parts 34
    rm -r "$parts/bin"
}

run() {
    local folder="$1" lib name results="$store/results" rows=()
    shift
    mkdir -p "$folder" "$results"
    [ -e "$store/train" ] || {
        whole | tar --extract --xz --directory "$store"
    }
    lib="$(python3 -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')"
    export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    # Teachers are run by ONNX Runtime, if Python has it.
    : "${ORT_DYLIB_PATH:=$(find "$lib/../../onnxruntime/capi" -name "libonnxruntime.so*" -print -quit || true)}"
    export ORT_DYLIB_PATH
    for name in "$@"; do
        local place=("$store/runs/$name.toml" --data "$store/data" --out "$store/out" --set "name=$name") change
        for change in ${SET:-}; do place+=(--set "$change"); done
        "$store/train" prepare "${place[@]}"
        "$store/train" fit "${place[@]}" --resume --device "${DEVICE:-cuda}"
        "$store/train" eval "${place[@]}" --json >"$results/$name.0.json"
        "$store/train" export "${place[@]}" --to "$store/out/$name/model"
        rows+=("$name.0")
        # A later run that fails must not cost what this one brought.
        rm -f "$folder"/result.*
        (cd "$store" && tar --create --gzip results out/*/{log.jsonl,curves.svg,retrieval.html,model}) |
            split --bytes 15M --numeric-suffixes - "$folder/result."
    done
    python3 "$store/table.py" "$results" "${rows[@]}"
}

unpack() {
    mkdir -p "$2"
    cat "$1"/result.* | tar --extract --gzip --directory "$2"
    ls "$2"/out
}

case "${1:-}" in
    pack | take | run | unpack) "$@" ;;
    *) sed -n '2,9s/^# //p' "$0" >&2 && exit 2 ;;
esac
