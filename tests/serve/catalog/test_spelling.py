"""One spelling for what people say and type."""

import pytest

from serve.catalog.spelling import PhraseFinder, content_terms, matches_term, normalise


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("", ""),
        ("  !?… -- \n", ""),
        ("Hello,  World!", "hello world"),
        ("snake_case e-mail", "snake case e mail"),
        ("It's", "its"),
        ("it\u2019s Anna\u2019s 'quote'", "its annas quote"),
        ("U.S.A. and the U.K. at 5 p.m.", "usa and the uk at 5 pm"),
        ("A. B", "a b"),
        ("STRASSE straße", "strasse strasse"),
        ("ﬁne \uff26\uff35\uff2c\uff2c", "fine full"),
        ("rock & roll", "rock and roll"),
        ("東京タワー2024年", "東 京 タ ワ ー 2024 年"),
        ("서울에 가다", "서 울 에 가 다"),
        ("नमस्ते", "नमस्ते"),
        ("x\x00y 🙂 z", "x y z"),
        ('"; DROP TABLE', "drop table"),
    ],
)
def test_words_have_one_spelling(written: str, normal: str) -> None:
    assert normalise(written) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    "spellings",
    [
        ("20 percent", "20%", "20 %", "twenty per cent", "Twenty percent", "٢٠%"),
        ("1984", "nineteen eighty four", "nineteen eighty-four"),
        ("1905", "nineteen oh five"),
        ("2025", "twenty twenty five", "two thousand twenty-five", "two thousand and twenty five", "2,025"),
        ("1500", "fifteen hundred", "one thousand five hundred", "1,500"),
        ("120", "a hundred and twenty", "one hundred twenty"),
        ("1234", "one thousand two hundred and thirty four"),
        (
            "3500000",
            "3,500,000",
            "3.5 million",
            "3½ million",
            "three and a half million",
            "3 and a half million",
            "three point five million",
            "three million five hundred thousand",
        ),
        ("1500000 people", "a million and a half people", "one and a half million people", "1.5 million people"),
        ("500000", "half a million", "half million", "0.5 million"),
        ("250000", "a quarter of a million", "quarter million"),
        ("750000", "three quarters of a million", "¾ million", "0.75 million"),
        ("3123456 point 7", "3.1234567 million"),
        ("2 point 5 hours", "two and a half hours", "2.5 hours", "2½ hours", "two point five hours"),
        ("3500000 dollars", "$3.5m", "$3.5 million", "$3,500,000", "three and a half million dollars"),
        ("2000000000 pounds", "£2bn", "two billion pounds"),
        ("1500000000000", "1.5 trillion"),
        ("3 point 5m", "3.5m"),
        ("half past 5", "half past five"),
        ("3 quarters", "three quarters"),
        ("3000000", "3 million", "three million", "3,000,000"),
        ("200005", "two hundred thousand and five"),
        ("1 point 2 5", "1.25", "one point two five"),
        ("5 dollars", "$5", "five dollars", "$ 5"),
        ("5000000 dollars", "$5 million", "five million dollars"),
        ("21st century", "twenty-first century", "twenty first century"),
        ("3rd", "third"),
        ("the second law", "the 2nd law", "the Second Law"),
        ("20 second timer", "twenty second timer"),
        ("5 oclock", "five o'clock", "five o clock"),
        ("1 2 3", "one two three", "one, two, three"),
        ("90 3", "ninety, 3"),
        ("hundred million", "hundred million"),
    ],
)
def test_numbers_have_one_spelling(spellings: tuple[str, ...]) -> None:
    assert {normalise(spelling) for spelling in spellings} == {spellings[0]}


def test_a_number_of_any_length_is_read_without_end_or_error() -> None:
    assert normalise("9" * 100_000) == "9" * 100_000
    assert len(normalise("9" * 100_000 + " million")) < 100
    assert normalise("one " + "hundred " * 500).isdecimal()
    assert normalise("one " + "billion " * 5000).split()
    assert len(normalise("9" * 100_000 + ".5 million")) < 100


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("the speaker and Paris", ["speaker", "paris"]),
        ("to be or not to be", ["to be or not to be"]),
        ("what is it", []),
        ("The", []),
        ("Paris, paris", ["paris"]),
        ("東京タワー", ["東 京", "京 タ", "タ ワ", "ワ ー"]),
        ("犬 runs", ["犬", "runs"]),
        ("twenty per cent", ["20", "percent"]),
        ("?!", []),
    ],
)
def test_content_terms_are_what_is_worth_searching(text: str, terms: list[str]) -> None:
    assert content_terms(text) == terms


@pytest.mark.parametrize(
    ("text", "term", "holds"),
    [
        ("We hiked home", "hiking", True),
        ("We hiked home", "hike home", True),
        ("We hiked home", "home hike", False),
        ("a Café", "cafe", True),
        ("Parisian", "Paris", False),
        ("twenty per cent", "20%", True),
        ("東京タワー", "東京", True),
        ("anything", "", False),
        ("anything", "*", False),
        ("anything", "🙂", False),
        ("", "word", False),
        ('"; DROP', "drop", True),
    ],
)
def test_a_text_holds_a_term_as_the_search_table_would_find_it(text: str, term: str, holds: bool) -> None:
    assert matches_term(text, term) is holds


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("3.5 million", "some three and a half million people", ["three and a half million"]),
        ("500,000", "half a million people", ["half a million"]),
        ("1500000", "about a million and a half", ["a million and a half"]),
        ("three and a half million", "3.5 million", ["3.5 million"]),
        ("a sixtieth birthday", "it was a sixtieth birthday, a birthday", ["a sixtieth birthday,"]),
        ("24", "24, twenty four", ["24,", "twenty four"]),
        ("?!", "what?!", []),
    ],
)
def test_phrases_and_numbers_are_found_in_consecutive_words(phrase: str, text: str, found: list[str]) -> None:
    words = text.split()
    assert [" ".join(words[start:end]) for start, end, _ in PhraseFinder([phrase]).find(words)] == found
