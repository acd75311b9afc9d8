#!/usr/bin/env bash
# Measures llama.cpp once and prints the JSON line that `pimoe bench --peer` reads.
#
#   LLAMA_BIN=FOLDER scripts/peer-llama.sh MODEL.gguf
#
# LLAMA_BIN holds llama-bench and llama-batched-bench of any build; empty = those in PATH. LLAMA_THREADS is 2 unless it
# says otherwise. PIMOE_BENCH_WORKLOADS, which bench sets, names the workloads that count: prefill (512 tokens), decode
# (128 written tokens), batch8 and batch32 (32 + 32 tokens each); without it all are measured.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
model=$1
threads=${LLAMA_THREADS:-2}
workloads=" ${PIMOE_BENCH_WORKLOADS:-prefill decode batch8 batch32} "
PATH=${LLAMA_BIN:+$LLAMA_BIN:}$PATH

wants() { [[ $workloads == *" $1 "* ]]; }

# value KEY: that key's number in each line of JSON on standard input.
value() { sed -nE "s/^\{.*\"$1\": *([0-9.e+-]+).*/\1/p"; }

# The storage type is the end of the file's name; a type without a line here has no bytes stated.
kind=${model##*-}
kind=${kind%.gguf}
case ${kind,,} in
  q8_0) bytes=1.0625 ;; # 32 weights and an f16 scale are 34 bytes
  bf16 | f16) bytes=2 ;;
  f32) bytes=4 ;;
  *) bytes=0 ;;
esac

prompt=0 gen=0 batches=()
wants prefill && prompt=512
wants decode && gen=128
wants batch8 && batches+=(8)
wants batch32 && batches+=(32)

prefill=0 decode=0
if [ $((prompt + gen)) -gt 0 ]; then
  lines=$(llama-bench -m "$model" -t "$threads" -p "$prompt" -n "$gen" -r 1 -o jsonl 2>/dev/null)
  while read -r line; do
    rate=$(value avg_ts <<<"$line")
    if [ "$(value n_gen <<<"$line")" = 0 ]; then prefill=$rate; else decode=$rate; fi
  done <<<"$lines"
fi

declare -A batched=([8]=0 [32]=0)
for n in "${batches[@]}"; do
  batched[$n]=$(llama-batched-bench -m "$model" -c 4096 -b 2048 -ub 512 -npp 32 -ntg 32 -npl "$n" -t "$threads" -tb "$threads" \
    --output-format jsonl 2>/dev/null | value speed_tg)
done

printf '{"name":"llama.cpp %s","prefill_tps":%s,"decode_tps":%s,"decode_tps_8":%s,"decode_tps_32":%s,"bytes_per_weight":%s}\n' \
  "${kind^^}" "${prefill:-0}" "${decode:-0}" "${batched[8]:-0}" "${batched[32]:-0}" "$bytes"
