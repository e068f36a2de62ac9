#!/bin/sh
# Amazon's review data (of 2023; those of 2014 and 2018 are read by the same command): from raw
# files to lists of new items.
#
#     sh examples/walks/amazon.sh RAW OUT
#
# RAW is a folder with NAME.jsonl.gz and meta_NAME.jsonl.gz. OUT is a new folder.
set -eu
raw=$1 out=$2

# Read the notes that this prints before you train: they say how the files were read.
milk-recsys prepare amazon --reviews "$raw"/[!m]*.jsonl.gz --metadata "$raw"/meta*.jsonl.gz \
    --out "$out/data"

# Train KEEP, test it on held-out items, and write a report (report.html).
# The texts were encoded without the new items of this split.
milk-recsys train --data "$out/data" --out "$out/run" --empty-items drop \
    --split "$out/data/split.npz"

# New items get their features as the items of the run did. Here they are those of the same table.
milk-recsys prepare items --run "$out/run" --table "$raw"/meta*.jsonl.gz --out "$out/new_items"

# The best new items of every customer, and the best customers of every new item.
milk-recsys recommend --run "$out/run" --items "$out/new_items" --empty-items drop \
    --format tsv --formulas quote --out "$out/lists"
