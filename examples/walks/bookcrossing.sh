#!/bin/sh
# Ratings in an old encoding, in which 0 means that none was given: from raw files to lists of new items.
#
#     sh examples/walks/bookcrossing.sh RAW OUT
#
# RAW is a folder with BX-Book-Ratings.csv and BX-Books.csv. OUT is a new folder.
set -eu
raw=$1 out=$2

# Read the notes that this prints before you train: they say how the files were read.
milk-recsys prepare table --pairs "$raw/BX-Book-Ratings.csv" --encoding latin-1 \
    --user-column User-ID --item-column ISBN --id-case upper \
    --rating-column Book-Rating --min-rating 5 --implicit-rating 0 \
    --text "title=$raw/BX-Books.csv:Book-Title" \
    --categories "year=$raw/BX-Books.csv:Year-Of-Publication" \
    --missing Year-Of-Publication=0 \
    --out "$out/data"

# Train KEEP, test it on held-out items, and write a report (report.html).
# The texts were encoded without the new items of this split.
milk-recsys train --data "$out/data" --out "$out/run" --empty-items drop \
    --split "$out/data/split.npz"

# New items get their features as the items of the run did. Here they are those of the same table.
milk-recsys prepare items --run "$out/run" --encoding latin-1 \
    --table "$raw/BX-Books.csv" --out "$out/new_items"

# The best new items of every customer, and the best customers of every new item.
milk-recsys recommend --run "$out/run" --items "$out/new_items" --empty-items drop \
    --format tsv --formulas quote --out "$out/lists"
