"""Write every error message of kedit into `troubleshooting.md`, as the source has it.

python docs/messages.py
"""

import ast
import pathlib
import re

HERE = pathlib.Path(__file__).parent
SOURCE = HERE.parent / "kedit"
PAGE = HERE / "troubleshooting.md"
START, END = "<!-- messages: start -->", "<!-- messages: end -->"
TITLES = {
    "_at.py": "Operations and conditions",
    "_draft.py": "Drafts",
    "_edit.py": "Edits, applied and saved",
    "_guide": "Targets, bounds and sample weights",
    "_language": "What stands in an edit",
    "_plan": "An edit and a tensor that do not fit",
    "_run": "Tensors that cannot be edited",
    "_show": "Pictures",
    "_draws.py": "What is drawn",
    "_addresses.py": "Names of layers and weights",
    "callbacks": "Callbacks",
    "constraints": "Constraints",
    "inputs": "Inputs",
    "interventions": "Models that exist",
    "layers": "Layers",
    "losses": "Losses",
    "metrics": "Metrics",
    "studies": "Studies",
    "testing": "Testing",
    "weights": "Weights",
}
REFUSED = "refused"
"""The function that makes the `SavingError` of data that is no saved edit."""


def errors():
    """The names of kedit's errors."""
    tree = ast.parse((SOURCE / "errors.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)} | {REFUSED}


def texts(node, tables):
    """The messages that an argument of an error may be, with dots for what they are told.

    Args:
        node: The argument.
        tables: Dicts of the file, by name, in which templates of messages may stand.
    """
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join([texts(part, tables)[0] for part in node.values])]
    if isinstance(node, ast.BinOp):
        return [x + y for x in texts(node.left, tables) for y in texts(node.right, tables)]
    if isinstance(node, ast.IfExp):
        return texts(node.body, tables) + texts(node.orelse, tables)
    match node:
        case ast.Call(func=ast.Attribute(ast.Subscript(ast.Name(name)), "format")):
            templates = [text for value in tables[name].values for text in texts(value, tables)]
            return [re.sub(r"\{[^}]*\}", "…", template) for template in templates]
    return ["…"]


def messages():
    """The messages of each part of kedit: by its title, the name of the error and the text."""
    names, found = errors(), {}
    for file in sorted(SOURCE.rglob("*.py")):
        part = file.relative_to(SOURCE).parts[0]
        tree = ast.parse(file.read_text())
        tables = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            if node.func.id in names:
                name = "SavingError" if node.func.id == REFUSED else node.func.id
                for message in texts(node.args[0], tables):
                    if message.strip("… .") and message != "…. Received: …. …":
                        found.setdefault(TITLES[part], set()).add((message, name))
    return {title: sorted(found[title]) for title in TITLES.values() if title in found}


def cell(message):
    """A message as code in a table, whatever quotes stand in it."""
    return f"`` {message} ``".replace("|", r"\|")


def tables():
    """What is written into the page."""
    lines = []
    for title, rows in messages().items():
        lines += [f"### {title}", "", "| message | error |", "|---|---|"]
        lines += [f"| {cell(message)} | `{name}` |" for message, name in rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    page = PAGE.read_text()
    before, after = page.split(START)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{tables()}\n{END}{after}")
