"""Importers for published layouts of tables: RecBole's atomic files, MovieLens, and H&M."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.importers.assemble import Plan, assemble, start
from milk_recsys.catalogue.importers.categories import read_levels, write_categories
from milk_recsys.catalogue.importers.matching import Matching, Place
from milk_recsys.catalogue.importers.options import (
    EncodingOptions,
    FileOptions,
    OutputOptions,
    PairOptions,
)
from milk_recsys.catalogue.importers.texts import Texts, checked_texts, read_texts, write_texts
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.raw.tables import RawTable, TextFormat, open_table

__all__ = ["HM", "MovieLens", "RecBole"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecBole(EncodingOptions, FileOptions, PairOptions, OutputOptions):
    """RecBole's atomic files: NAME.inter and NAME.item, whose headers name the types."""

    folder: Path
    """Folder with the files."""
    categories: tuple[str, ...] = ()
    """COLUMN of NAME.item for each modality of categories, such as genres; several categories in
    one cell are separated by blanks."""

    def describe(self) -> str:
        """Return the source of the data set, for its manifest."""
        return f"prepare.py recbole: {self.folder.name}"

    def fill(self, draft: Draft) -> None:
        """Write the data set: a modality for each column of float_seq and of token_seq."""
        inter = _only(self.folder, "*.inter")
        item = inter.with_suffix(".item")
        if not item.exists():
            raise DataError(f"{item}: no such file. The features of items are in it.")
        pairs, items = open_table(inter, self.text_format), open_table(item, self.text_format)
        user_column, item_column = _recbole_ids(pairs)
        numbers = {c: Place(item, (c,)) for c, kind in items.types.items() if kind == "float_seq"}
        items.need(*self.categories)
        levels = {c: Place(item, (c,)) for c in self.categories}
        given = {
            c: Place(item, (c,))
            for c, kind in items.types.items()
            if kind == "token_seq" and c not in levels
        }
        time = "timestamp" if "timestamp" in pairs.columns else None
        plan = Plan(
            pairs=inter,
            rows=self.row_options(user_column, item_column, time),
            numbers=numbers,
            texts=given,
            categories=levels,
            level_separator=" ",
            names=next((Place(item, (c,)) for c in given if "title" in c or "name" in c), None),
            item_column=items.columns[0],
            pair_text=self.text_format,
            item_text=self.text_format,
            encode=self.encode_options,
        )
        assemble(draft, plan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HM(EncodingOptions, PairOptions, OutputOptions):
    """H&M's fashion data: transactions_train.csv, articles.csv, and the folder images."""

    folder: Path
    """Folder with the files."""
    picture_encoder: Path | None = None
    """ONNX model that encodes the pictures; by default they are left out."""

    def describe(self) -> str:
        """Return the source of the data set, for its manifest."""
        return f"prepare.py hm: {self.folder.name}"

    def fill(self, draft: Draft) -> None:
        """Write the data set: name, description, and the categories of an article."""
        articles = self.folder / "articles.csv"
        columns = open_table(articles).columns
        categories = tuple(c for c in columns if c.endswith("_name") and c != "prod_name")
        assemble(
            draft,
            Plan(
                pairs=self.folder / "transactions_train.csv",
                rows=self.row_options("customer_id", "article_id", "t_dat"),
                texts={
                    "name": Place(articles, ("prod_name",)),
                    "description": Place(articles, ("detail_desc",)),
                },
                categories={"categories": Place(articles, categories)} if categories else {},
                pictures={"image": self.folder / "images"} if self.picture_encoder else {},
                picture_encoder=self.picture_encoder,
                names=Place(articles, ("prod_name",)),
                encode=self.encode_options,
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLens(EncodingOptions, PairOptions, OutputOptions):
    """MovieLens: u.data and u.item, or ratings and movies as .dat or .csv."""

    folder: Path
    """Folder with the files."""

    def describe(self) -> str:
        """Return the source of the data set, for its manifest."""
        return f"prepare.py movielens: {self.folder.name}"

    def fill(self, draft: Draft) -> None:
        """Write the data set: genres, and the title without its year."""
        self.encode_options.check()
        pairs, movies, item, title, genres = _movielens(self.folder)
        if len(pairs.columns) != 4:
            raise DataError(
                f"{pairs.path}: has {plural(len(pairs.columns), 'column', 'columns')}, expected 4: "
                "user, movie, rating and time."
            )
        user, rated, rating, time = pairs.columns
        rows = self.row_options(user, rated, time)
        if rows.min_rating is not None:
            rows = dataclasses.replace(rows, rating_column=rows.rating_column or rating)
        else:
            draft.notes.append("all ratings count (1 to 5); to keep good ones only: --min-rating.")
        matching = start(draft, pairs, rows, item)
        titles = read_texts(draft, "title", movies, [title], matching)
        cleaned = [_clean_title(text) for text in titles.texts]
        names = [
            text or name for text, name in zip(titles.texts, matching.items.names, strict=True)
        ]
        draft.write_names(None, names, matching.items.names)
        levels = _genres(draft, movies, genres, matching)
        # Tables of new films name their columns, which some of these files do not.
        key = "item" if item.isdigit() else item
        recipe = write_categories(draft, "genres", levels, ("genres",), key, movies.path.name)
        given = Texts(cleaned, ("title",), movies.path.name)
        recipes = write_texts(
            draft, {"title": checked_texts(draft, "title", given)}, key, self.encode_options
        )
        draft.write_recipes({"genres": recipe, **recipes})


# --- RecBole --------------------------------------------------------------------------------------


def _only(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise DataError(f"{folder}: must hold one {pattern[1:]} file, found {len(files)}.")
    return files[0]


def _recbole_ids(pairs: RawTable) -> tuple[str, str]:
    """Return the columns of users and items: those so called, or the first two tokens."""
    tokens = [c for c, kind in pairs.types.items() if kind == "token"]
    if not pairs.types:
        raise DataError(
            f"{pairs.path}, line 1: the header must name the type of each column, as in "
            "user_id:token. For other files use `prepare table`, for MMRec's `prepare mmrec`."
        )
    user = next((c for c in tokens if "user" in c), tokens[0] if tokens else "")
    item = next((c for c in tokens if "item" in c), tokens[1] if len(tokens) > 1 else "")
    if not user or not item or user == item:
        raise DataError(f"{pairs.path}, line 1: has no two columns of the type token.")
    return user, item


# --- MovieLens ------------------------------------------------------------------------------------

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
"""Genres of u.item, in the order of its last columns."""
NO_GENRES = {"unknown", "(no genres listed)"}
YEAR = re.compile(r"\s*\((\d{4})\)\s*(\(V\))?\s*$")
ARTICLE = re.compile(r"^(.*), (The|A|An|La|Le|Les|L'|Il|El|Los|Las|Der|Die|Das|Das|Un|Une)$")


def _movielens(folder: Path) -> tuple[RawTable, RawTable, str, str, list[str]]:
    """Return the tables of ratings and movies, and the columns of ids, titles and genres."""
    plain = {"header": False, "encoding": "latin-1"}
    if (folder / "u.data").exists():
        pairs = open_table(folder / "u.data", TextFormat(header=False, separator="\t"))
        movies = open_table(folder / "u.item", TextFormat(**plain, separator="|", quotes="none"))  # type: ignore[arg-type]
        expected = 5 + len(GENRES)
        if len(movies.columns) != expected:
            raise DataError(
                f"{movies.path}: has {len(movies.columns)} columns, expected {expected}: id, "
                "title, two dates, a link, and 19 genres."
            )
        return pairs, movies, "1", "2", list(movies.columns[5:])
    if (folder / "ratings.dat").exists():
        form = TextFormat(**plain, separator="::", quotes="none")  # type: ignore[arg-type]
        pairs = open_table(folder / "ratings.dat", form)
        return pairs, open_table(folder / "movies.dat", form), "1", "2", ["3"]
    if (folder / "ratings.csv").exists():
        pairs, movies = (open_table(folder / f"{name}.csv") for name in ("ratings", "movies"))
        movies.need("movieId", "title", "genres")
        return pairs, movies, "movieId", "title", ["genres"]
    raise DataError(f"{folder}: must hold u.data, ratings.dat or ratings.csv.")


def _genres(
    draft: Draft, movies: RawTable, columns: list[str], matching: Matching
) -> list[list[list[str]]]:
    """Return the genres of each movie; "unknown" alone means that it has none."""
    cells = read_levels(draft, "genres", movies, columns, matching)
    if len(columns) == len(GENRES):
        flags = [[bool(cell and cell[0] == "1") for cell in item] for item in cells]
        named = [[g for g, has in zip(GENRES, row, strict=True) if has] for row in flags]
    else:
        named = [item[0] for item in cells]
    return [[[genre for genre in genres if genre not in NO_GENRES]] for genres in named]


def _clean_title(title: str) -> str:
    """Return a title without its year, and with the article in front; "" for ``unknown``.

    Example:
        >>> _clean_title("Good, The Bad and The Ugly, The (1966)"), _clean_title("unknown")
        ('The Good, The Bad and The Ugly', '')
    """
    text = YEAR.sub("", title).strip()
    match = ARTICLE.match(text)
    if match:
        text = f"{match[2]} {match[1]}"
    return "" if text.lower() == "unknown" else text
