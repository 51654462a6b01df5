"""Which licence a model gets where none is named, and what is said of the others."""

import pytest

from bert_ja import licences

WIKIPEDIA = {"name": "jawiki", "license": "CC BY-SA 4.0", "source": "Japanese Wikipedia, https://ja.wikipedia.org/"}
WIKI_2019 = WIKIPEDIA | {"license": "CC BY-SA 3.0 + GFDL"}
HOSPITAL = {"name": "hospital", "license": "in-house", "source": "our reports"}
FREE = {"name": "sample", "license": "CC0-1.0", "source": None}
UNKNOWN = {"name": None, "license": None, "source": None}


@pytest.mark.parametrize(
    "sources, expected",
    [
        ([WIKIPEDIA], "cc-by-sa-4.0"),
        ([WIKI_2019], "cc-by-sa-4.0"),
        ([WIKIPEDIA | {"license": None}], "cc-by-sa-4.0"),
        ([HOSPITAL, WIKIPEDIA], "cc-by-sa-4.0"),
        ([UNKNOWN | {"license": "cc-by-sa-3.0"}], "cc-by-sa-4.0"),
        ([FREE], "cc0-1.0"),
        ([FREE, FREE | {"license": "cc0 1.0"}], "cc0-1.0"),
        ([{"license": "Apache-2.0"}], "apache-2.0"),
        ([FREE, {"license": "MIT"}], None),
        ([HOSPITAL], None),
        ([UNKNOWN], None),
    ],
)
def test_the_default_is_the_careful_one(sources, expected):
    assert licences.default(sources) == expected


def test_wikipedia_under_another_licence_is_doubted():
    assert licences.doubts("cc-by-sa-4.0", [WIKIPEDIA, WIKI_2019, FREE]) == []
    assert licences.doubts("apache-2.0", [WIKIPEDIA, FREE, {"name": "x", "license": "Apache-2.0"}]) == [
        "jawiki (CC BY-SA 4.0) asks for the same licence of what is made of it: make sure that a model under "
        "apache-2.0 does not need it"
    ]


def test_texts_of_other_licences_are_doubted_by_name():
    assert licences.doubts("cc-by-sa-4.0", [HOSPITAL, UNKNOWN]) == [
        "make sure that hospital (in-house) may be used for a model under cc-by-sa-4.0",
        "make sure that the training text (licence unknown) may be used for a model under cc-by-sa-4.0",
    ]
