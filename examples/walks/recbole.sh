#!/bin/sh
# RecBole's atomic files: from raw files to lists of new items.
#
#     sh examples/walks/recbole.sh RAW OUT
#
# RAW is a folder with NAME.inter and NAME.item. OUT is a new folder.
set -eu
raw=$1 out=$2

# Read the notes that this prints before you train: they say how the files were read.
milk-recsys prepare recbole --folder "$raw" \
    --out "$out/data"

# Train KEEP, test it on held-out items, and write a report (report.html).
# The texts were encoded without the new items of this split.
milk-recsys train --data "$out/data" --out "$out/run" --empty-items drop \
    --split "$out/data/split.npz"

# New items get their features as the items of the run did. Here they are those of the same table.
milk-recsys prepare items --run "$out/run" --table "$raw"/*.item --out "$out/new_items"

# The best new items of every customer, and the best customers of every new item.
milk-recsys recommend --run "$out/run" --items "$out/new_items" --empty-items drop \
    --format tsv --formulas quote --out "$out/lists"
