"""The prompts of published models by task, the exact strings of their model cards. Data for published_models.py."""

from __future__ import annotations

_PASSAGES = "Represent this sentence for searching relevant passages: "
_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_GEMMA = "task: {} | query: "

BGE = {"query": _PASSAGES, "document": ""}
CODE = {"query": "Represent this query for searching relevant code: ", "document": ""}
QUERY = {"query": "query: ", "document": ""}
E5 = {"query": "query: ", "document": "passage: ", "passage": "passage: "}
INSTRUCT = {"query": f"Instruct: {_WEB_SEARCH}\nQuery: ", "document": ""}
QWEN3 = {"query": f"Instruct: {_WEB_SEARCH}\nQuery:", "document": ""}
"""Nothing behind the last colon, unlike all others."""
NV_EMBED = {
    "query": "Instruct: Given a question, retrieve passages that answer the question\nQuery: ",
    "document": "",
}
STELLA = {
    "s2p_query": f"Instruct: {_WEB_SEARCH}.\nQuery: ",
    "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
    "document": "",
}
NOMIC = {
    "query": "search_query: ",
    "document": "search_document: ",
    "search_query": "search_query: ",
    "search_document": "search_document: ",
    "clustering": "clustering: ",
    "classification": "classification: ",
}
JINA_V3 = {
    "query": "Represent the query for retrieving evidence documents: ",
    "document": "Represent the document for retrieval: ",
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
EMBEDDING_GEMMA = {
    "query": _GEMMA.format("search result"),
    "document": "title: none | text: ",
    "question_answering": _GEMMA.format("question answering"),
    "fact_checking": _GEMMA.format("fact checking"),
    "classification": _GEMMA.format("classification"),
    "clustering": _GEMMA.format("clustering"),
    "sentence_similarity": _GEMMA.format("sentence similarity"),
    "code_retrieval": _GEMMA.format("code retrieval"),
}
