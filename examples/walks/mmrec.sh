#!/bin/sh
# MMRec's layout: from raw files to lists of new items.
#
#     sh examples/walks/mmrec.sh RAW OUT
#
# RAW is a folder with NAME.inter, image_feat.npy and text_feat.npy. OUT is a new folder.
set -eu
raw=$1 out=$2

# Read the notes that this prints before you train: they say how the files were read.
milk-recsys prepare mmrec --folder "$raw" \
    --out "$out/data"

# Train KEEP, test it on held-out items, and write a report (report.html).
milk-recsys train --data "$out/data" --out "$out/run" --empty-items drop

# Arrays have no columns to encode: new items are a folder of features/NAME.npy. Here they are
# those of the data set itself.
mkdir -p "$out/new_items/features"
cp "$out/data/features/"*.npy "$out/new_items/features"

# The best new items of every customer, and the best customers of every new item.
milk-recsys recommend --run "$out/run" --items "$out/new_items" --empty-items drop \
    --format tsv --formulas quote --out "$out/lists"
