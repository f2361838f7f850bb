"""The notice that ships beside the excerpts: sources, licences, what was changed."""

from collections.abc import Iterable

from demo.corpora.packages import CODE_PACKAGES, PACKAGES, SOURCES

_CHANGES = {
    "austen": "lines joined to paragraphs, cut into parts of chapters, italics marks removed",
    "shakespeare": "cut into scenes or parts of scenes",
    "moby-dick": "cut into parts of chapters",
    "king-james": "verse numbers removed, a heading added",
    "wiki-fr": "articles without gaps from formulas; questions and answers added by this project "
    "from the article's own description and dates; pronunciations removed",
    "wiki-en": "articles on science topics without gaps from formulas; title put before the text",
    "segond": "verse numbers and brackets removed, a heading added",
    "poetry-zh": "poems of one author joined; damaged poems left out",
    "sanguo": "cut into parts of chapters, indentation removed",
    "qasper": "citations, formula placeholders, layout code, lists of authors, acknowledgements "
    "and appendices removed; one part of each paper taken",
    "competition": "",
    "word-problems": "",
    "competition-plots": "",
    "word-plots": "",
}
_CODE_CHANGE = (
    "licence comments removed from the head of files; whole functions and classes cut out"
)

_HEAD = """# Notice for the demo excerpts

The files in `corpora/` hold short excerpts of the works below. They are there to try the tools
on real text, and no excerpt was part of the training text of the demo model. Each line names its
source in `source` and its document in `id` (file, chapter, article title or arXiv number).

This file is written by `python -m demo.corpora.excerpts`.

| source | from | licence of the text | attribution | what was changed |
|---|---|---|---|---|
"""

_SHARE_ALIKE = """
Text under CC-BY-SA-4.0 comes from Wikipedia (<https://www.wikipedia.org>); the history of each
article lists its authors, and the `id` gives the title. Our changes to it are under the same
licence: <https://creativecommons.org/licenses/by-sa/4.0/>.

Text under CC-BY-4.0 comes from the Qasper data set by Pradeep Dasigi, Kyle Lo, Iz Beltagy, Arman
Cohan, Noah A. Smith and Matt Gardner, whose papers come from S2ORC. The `id` gives the arXiv
number, by which each paper's title and authors are found: <https://arxiv.org/abs/NUMBER>. Licence:
<https://creativecommons.org/licenses/by/4.0/>.

Works in the public domain carry no licence. Text that this project generates has the licence of
this project.
"""

_MIT = """
## MIT

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

_BSD = """
## BSD-3-Clause

Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions
   and the following disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of
   conditions and the following disclaimer in the documentation and/or other materials provided
   with the distribution.
3. Neither the name of the copyright holder nor the names of its contributors may be used to
   endorse or promote products derived from this software without specific prior written
   permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""


def notice(used: Iterable[str]) -> str:
    """Return the notice for the sources in use, with the licence texts that code needs."""
    rows = []
    for name in used:
        source = SOURCES[name]
        origin = "this project"
        if source.package is not None:
            package = PACKAGES[source.package]
            origin = f"{package.registry} `{package.name}` {package.version}"
        holder = source.attribution
        if name in CODE_PACKAGES:
            holder = f"Copyright {holder}"
        change = _CODE_CHANGE if name in CODE_PACKAGES else _CHANGES[name]
        licence = source.licence if source.licence != "ours" else "as this project"
        rows.append(f"| {name} | {origin} | {licence} | {holder} | {change or 'generated'} |\n")
    return _HEAD + "".join(rows) + _SHARE_ALIKE + _MIT + _BSD
