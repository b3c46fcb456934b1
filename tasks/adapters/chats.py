"""Chats → text, by the tokenizer's own chat template.

The template is Jinja out of the model's folder; transformers renders it in a sandbox. No code of the folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tasks.errors import RefusedData


def chat_renderer(tokenizer_json: Path) -> Callable[[str], str]:
    """What turns one chat (a JSON list of messages) into text, with the template beside ``tokenizer_json``.

    Raises:
        RefusedData: the tokenizer has no template; or, when a chat is rendered, the template refuses it.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    folder = tokenizer_json.parent
    if not has_template(folder):
        raise RefusedData(
            "the documents are chats, and the tokenizer has no chat template",
            observed="no chat_template in tokenizer_config.json, and no chat_template.jinja",
            limit="a template that says how turns are written",
            remedy="put the template of the model's makers into its folder, or make plain text of the chats: "
            "data.document = template with data.fields such as {prompt}\\n{response}",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)

    def render(document: str) -> str:
        try:
            return str(tokenizer.apply_chat_template(json.loads(document), tokenize=False))
        except (TemplateError, TypeError, ValueError) as error:
            raise RefusedData(
                "the chat template refuses a chat",
                observed=f"{type(error).__name__}: {error}; the chat begins {document[:120]}",
                limit="turns as the template wants them, often user and assistant one after the other",
                remedy="mend that chat in the source, or give plain text",
            ) from error

    return render


def has_template(folder: Path) -> bool:
    """Whether the model's folder says how chats are written."""
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
