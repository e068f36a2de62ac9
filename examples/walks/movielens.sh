#!/bin/sh
# MovieLens 100K: from raw files to lists of new items.
#
#     sh examples/walks/movielens.sh RAW OUT
#
# RAW is a folder with u.data, u.item and u.genre. OUT is a new folder.
set -eu
raw=$1 out=$2

# Read the notes that this prints before you train: they say how the files were read.
milk-recsys prepare movielens --folder "$raw" \
    --out "$out/data"

# Train KEEP, test it on held-out items, and write a report (report.html).
# The texts were encoded without the new items of this split.
milk-recsys train --data "$out/data" --out "$out/run" --empty-items drop \
    --split "$out/data/split.npz"

# New items get their features as the items of the run did, from a table with the columns title and
# genres.
cat > "$out/new_films.csv" <<'END'
item,title,genres
9001,A film about the title of a film,Comedy|Drama
9002,Another day,Action
9003,The man and the city,
END
milk-recsys prepare items --run "$out/run" --table "$out/new_films.csv" --out "$out/new_items"

# The best new items of every customer, and the best customers of every new item.
milk-recsys recommend --run "$out/run" --items "$out/new_items" --empty-items drop \
    --format tsv --formulas quote --out "$out/lists"
