"""Tasks: what examples are read, and exact verdicts on answers, also with the real data's own gold answers."""

import gzip
import json
import sqlite3
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.tasks import TASKS, Example, Task, make_task
from finetune.tasks.rows import same_rows
from finetune.tasks.sql_words import has_order, sql_words
from pretrain.runtime.errors import DiptychError


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def example(gold: str, **facts: Any) -> Example:
    return Example("test.jsonl:1", "question", gold, facts)


def scores(task: Task, gold: str, output: str, **facts: Any) -> dict[str, float | None]:
    return dict(task.judge(example(gold, **facts), output).scores)


class TestMaking:
    def test_every_task_has_its_name_and_main_metric(self) -> None:
        facts = {"answers": ["1"], "label": "1"}
        for name in TASKS:
            task = make_task(name)
            assert task.task == name
            assert task.main in task.judge(example("1", **facts), "1").scores
            assert task.judge(example("1", **facts), "1").correct
            for blank in ("", " \n"):
                verdict = task.judge(example("1", **facts), blank)
                assert not verdict.correct and verdict.scores[task.main] == 0, name

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("nl_regx", {}, "task: no task 'nl_regx'; did you mean nl_regex?"),
            ("translation of poems", {}, "known: nl_regex, text_to_sql, gsm8k, sentiment, open_qa, exact_match"),
            (
                "gsm8k",
                {"max_new_token": 3},
                "task.max_new_token: gsm8k has no such setting; did you mean max_new_tokens?",
            ),
            (
                "gsm8k",
                {"max_new_tokens": 0},
                "task.max_new_tokens: Input should be greater than or equal to 1 (given 0)",
            ),
            ("gsm8k", {"name": "gsm8k"}, "task.name: gsm8k has no such setting; known: separator, instruction"),
            ("gsm8k", {"task": "gsm8k"}, "task.task: gsm8k has no such setting; known: separator, instruction"),
            ("gsm8k", {"fields": {"txt": "q"}}, "task.fields: this task reads no 'txt'; did you mean text?"),
            ("sentiment", {"answers": {0: "Bad", 1: "bad."}}, "task.answers: two labels have the same word"),
        ],
    )
    def test_what_is_wrong_is_named(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(DiptychError) as error:
            make_task(name, **options)
        assert message in str(error.value) and "\n" not in str(error.value)


class TestReading:
    def test_lines_with_named_fields(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.jsonl",
            {"question": " q ", "answer": {"short": "a\n"}},
            "",
            {"question": "é", "answer": {"short": "b"}},
        )
        task = make_task("exact_match", fields={"text": "question", "code": "answer.short"})
        assert task.examples(path) == [Example("a.jsonl:1", " q ", "a\n", {}), Example("a.jsonl:3", "é", "b", {})]

    def test_gzip(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"text": "q", "code": "a"}\n'))
        assert make_task("exact_match").examples(str(path)) == [Example("a.jsonl.gz:1", "q", "a", {})]

    def test_published_chats(self, tmp_path: Path) -> None:
        chat = [
            {"role": "system", "content": "Convert."},
            {"role": "user", "content": "For db_id:[car_1]\n\nHow many?"},
            {"role": "assistant", "content": "SELECT 1"},
        ]
        path = write(tmp_path / "a.jsonl", {"messages": chat})
        assert make_task("exact_match").examples(path)[0].prompt == "For db_id:[car_1]\n\nHow many?"
        for with_db, prompt in ((False, "How many?"), (True, "For db_id:[car_1]\n\nHow many?")):
            read = make_task("text_to_sql", prompt_with_db=with_db).examples(path)
            assert read == [Example("a.jsonl:1", prompt, "SELECT 1", {"db_id": "car_1"})]

    @pytest.mark.parametrize(
        ("name", "rows", "message"),
        [
            ("exact_match", [], ": no examples; expected JSON Lines"),
            ("exact_match", ["", "  "], ": no examples"),
            ("exact_match", [{"text": "a", "code": "b"}, {"text": "a"}], ":2: no field 'code'; the line has text;"),
            ("exact_match", [{"text": "a", "code": " "}], ":1: view 'code' is empty"),
            ("exact_match", [{"text": "a", "code": None}], ":1: no field 'code'"),
            ("exact_match", [{"text": "a", "code": 3}], ":1: view 'code' is no string but int"),
            ("exact_match", ["{"], ":1: invalid JSON"),
            ("exact_match", ["[]"], ":1: expected a JSON object"),
            ("exact_match", [{"messages": [{"role": "user", "content": "a"}]}], ":1: 0 messages with role 'assistant'"),
            ("exact_match", [{"messages": "a"}], ":1: 'messages' is no list of objects"),
            ("nl_regex", [{"text": "a", "code": "(a"}], ":1: the answer is no regex of NL-RX (column 3"),
            ("gsm8k", [{"text": "a", "code": "none"}], ":1: the answer holds no number that can be read"),
            ("text_to_sql", [{"text": "a", "code": "b", "db_id": "../x"}], ":1: db_id '../x' is no name"),
            ("open_qa", [{"text": "a", "code": []}], ":1: view 'code' is an empty list"),
            ("sentiment", [{"text": "a", "label_name": 0.5}], ":1: label field 'label_name' is no string or integer"),
        ],
    )
    def test_bad_lines_are_named(self, tmp_path: Path, name: str, rows: list[Any], message: str) -> None:
        path = write(tmp_path / "a.jsonl", *rows)
        with pytest.raises(DiptychError) as error:
            make_task(name).examples(path)
        assert f"{path}{message}" in str(error.value)

    def test_missing_files(self, tmp_path: Path) -> None:
        with pytest.raises(DiptychError, match="no such file"):
            make_task("gsm8k").examples(tmp_path / "a.jsonl")
        with pytest.raises(DiptychError, match="is a folder"):
            make_task("gsm8k").examples(tmp_path)


class TestNlRegex:
    @pytest.mark.parametrize(
        ("gold", "output", "exact", "semantic", "starts", "reason"),
        [
            (".*dog.*", " .*dog.*\n", 1, 1, 1, "exact"),
            (".*dog.*", "(.*)(dog)(.*)", 0, 1, 0, "same language"),
            ("(a)&(.)", "a", 0, 1, 0, "same language"),
            ("~(.*a.*)", "[^a]*", 0, 1, 0, "same language"),
            (".*dog.*", ".*dog.*|", 0, 0, 1, "other language: they differ on ''"),
            ("a+", "a*", 0, 0, 0, "other language: they differ on ''"),
            (r"\ba\b", "a", 0, 1, 0, "same language"),
            ("a", "a$", 0, 0, 1, "no regex: column 2"),
            ("a", "(?=a)", 0, 0, 0, "no regex: column 2"),
            (".*", "", 0, 0, 0, "no answer"),
        ],
    )
    def test_verdicts(self, gold: str, output: str, exact: int, semantic: int, starts: int, reason: str) -> None:
        verdict = make_task("nl_regex").judge(example(gold), output)
        assert verdict.scores == {"exact": exact, "semantic": semantic, "starts_with_gold": starts}
        assert verdict.reason.startswith(reason) and verdict.correct == bool(exact)

    def test_too_many_states_are_not_decided(self) -> None:
        verdict = make_task("nl_regex", max_states=10).judge(example(".*a.{10}"), ".*a.{9}.")
        assert verdict.scores["semantic"] is None and verdict.reason == "not decided: more than 10 states"

    def test_without_meaning_any_gold_will_do(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", {"text": "a", "code": "^a$"})
        task = make_task("nl_regex", semantic=False)
        [read] = task.examples(path)
        assert dict(task.judge(read, "^a$").scores) == {"exact": 1, "starts_with_gold": 1}

    @pytest.mark.parametrize(
        ("gold", "trivial"),
        [
            ("(a)&(b)", "matches nothing"),
            ("~(.*)", "matches nothing"),
            ("(.*)|(a)", "matches every line"),
            ("(a)&(.)", None),
            ("", None),
            ("(.*a.*)|(.*)&(.*b.*)", None),
        ],
    )
    def test_golds_that_say_little_are_named(self, gold: str, trivial: str | None) -> None:
        assert make_task("nl_regex").trivial_gold(example(gold)) == trivial
        assert make_task("nl_regex", semantic=False).trivial_gold(example(gold)) is None

    def test_golds_of_the_published_test_set_that_say_little(self, shared: Path) -> None:
        task = make_task("nl_regex")
        read = task.examples(shared / "data" / "nlrx_synth" / "test.jsonl")
        found = Counter(task.trivial_gold(one) for one in read)
        assert found == {"matches nothing": 312, "matches every line": 86, None: 1602}


class TestSqlWords:
    @pytest.mark.parametrize(
        "other",
        [
            "select T1.name from singer as T1 join band as T2 on T1.id=T2.id where T2.city<>'N  Y' order by name asc;",
            "SELECT a.NAME FROM singer a INNER JOIN band b ON a.id=b.id\nWHERE b.city != \"N  Y\" ORDER BY name",
            "SELECT `T1`.[name] FROM Singer T1 JOIN `band` AS x ON \"T1\".id==x.id WHERE x.city!='N  Y' ORDER BY name;",
        ],
    )  # fmt: skip
    def test_spelling_does_not_count(self, other: str) -> None:
        gold = "SELECT T1.name FROM singer AS T1 JOIN band AS T2 ON T1.id = T2.id WHERE T2.city != 'N  Y' ORDER BY name"
        assert sql_words(other) == sql_words(gold)

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            ("SELECT a FROM t WHERE b = 'X'", "SELECT a FROM t WHERE b = 'x'"),
            ("SELECT a FROM t WHERE b = 'x  y'", "SELECT a FROM t WHERE b = 'x y'"),
            ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = x"),
            ("SELECT a FROM t WHERE b = 'it''s'", "SELECT a FROM t WHERE b = 'it' 's'"),
            ("SELECT a FROM t WHERE b = 'ab'", "SELECT a FROM t WHERE b = 'ab"),
            ("SELECT a, b FROM t", "SELECT b, a FROM t"),
            ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC"),
            ("SELECT a FROM t LEFT JOIN u", "SELECT a FROM t JOIN u"),
            ("SELECT DISTINCT a FROM t", "SELECT a FROM t"),
            ("SELECT x.a FROM t AS x JOIN u AS y", "SELECT y.a FROM t AS x JOIN u AS y"),
            ("SELECT t.a FROM t JOIN u", "SELECT u.a FROM t JOIN u"),
            ("SELECT 15", "SELECT 1 5"),
            ("SELECT a - - 1 FROM t", "SELECT a -- 1 FROM t"),
            ("SELECT a -- x\n+ 1", "SELECT a -- x + 1"),
            ("SELECT a / * b * / c", "SELECT a /* b */ c"),
            ("SELECT 1 /* a\nb */ + 1", "SELECT 1 /* a b */ + 1"),
            ("SELECT 1.5e3 FROM t", "SELECT 1.5 e3 FROM t"),
            ("SELECT 1e-5", "SELECT 1e - 5"),
            ("SELECT 5a", "SELECT 5 a"),
            ("SELECT x'00ff'", "SELECT x '00ff'"),
            ("SELECT a << 1", "SELECT a < < 1"),
            ("SELECT a -> b", "SELECT a - > b"),
            ("SELECT a$b FROM t", "SELECT a $ b FROM t"),
            ("SELECT [as] FROM t", "SELECT FROM t"),
            ("SELECT a FROM t ORDER BY [asc]", "SELECT a FROM t ORDER BY"),
            ("SELECT `a``b` FROM t", "SELECT `a` `b` FROM t"),
            ("SELECT [,] FROM t", "SELECT , FROM t"),
            ("SELECT a\u00a0b FROM t", "SELECT a b FROM t"),
            ("SELECT \u00c9 FROM t", "SELECT \u00e9 FROM t"),
            ("SELECT a FROM t", "SELECT a FROM t; SELECT a FROM t"),
        ],
    )
    def test_meaning_counts(self, left: str, right: str) -> None:
        assert sql_words(left) != sql_words(right)

    def test_what_looks_like_a_comment_within_a_string_is_none(self) -> None:
        assert sql_words("SELECT 'a -- b' ,  c") == ["select", "'a -- b'", ",", "c"]
        assert sql_words("SELECT a -- it's\n, 'b'") == ["select", "a", "-- it's", ",", "'b'"]

    def test_quotes_within_strings(self) -> None:
        assert sql_words("SELECT 'it''s'") == sql_words('SELECT "it\'s"') == ["select", "'it's'"]

    @given(st.text(alphabet="aT1. '\"`[](),;=<>!\n", max_size=40))
    def test_any_text_is_equal_to_itself_in_other_case_of_keywords(self, text: str) -> None:
        assert sql_words(f"select {text}") == sql_words(f"SELECT  {text}")

    def test_order(self) -> None:
        assert has_order("SELECT a FROM t ORDER BY a")
        assert has_order("SELECT a FROM t UNION SELECT b FROM u order  by 1 LIMIT 3;")
        assert not has_order("SELECT a FROM (SELECT a FROM t ORDER BY a)")
        assert not has_order("SELECT a FROM t WHERE b = 'order by'")
        assert not has_order("SELECT a FROM t -- order by a")
        assert not has_order("SELECT [order] by FROM t")


class TestTextToSql:
    @pytest.fixture(params=["pets/pets.sqlite", "pets.sqlite"])
    def databases(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        path = tmp_path / "data bases #1" / request.param
        path.parent.mkdir(parents=True)
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT, weight REAL, picture BLOB)")
        connection.executemany(
            "INSERT INTO pet VALUES (?, ?, ?, ?)",
            [(1, "Rex", 10.0, b"\x00"), (2, "Tom", 4.2, None), (3, "Ann", 4.2, b"\x01")],
        )
        connection.commit()
        connection.close()
        return tmp_path / "data bases #1"

    @pytest.mark.parametrize(
        ("gold", "output", "normalised", "execution", "reason"),
        [
            ("SELECT name FROM pet", "SELECT name FROM pet", 1, 1, "exact; same result"),
            ("SELECT name FROM pet", "```sql\nselect NAME from pet;\n```", 1, 1, "same but for spelling; same result"),
            ("SELECT name FROM pet", "SELECT name FROM pet ORDER BY name", 0, 1, "other query; same result"),
            (
                "SELECT name FROM pet ORDER BY name",
                "SELECT name FROM pet ORDER BY id",
                0,
                0,
                "other query; other result",
            ),
            ("SELECT count(*) FROM pet", "SELECT 3.0", 0, 1, "other query; same result"),
            ("SELECT sum(weight) FROM pet", "SELECT 18.4", 0, 1, "other query; same result"),
            ("SELECT count(*) FROM pet", "SELECT '3'", 0, 0, "other query; other result"),
            ("SELECT weight FROM pet", "SELECT DISTINCT weight FROM pet", 0, 0, "other query; other result"),
            ("SELECT picture FROM pet", "SELECT picture FROM pet ORDER BY id DESC", 0, 1, "other query; same result"),
            ("SELECT name FROM pet WHERE id > 9", "SELECT 1 WHERE 0", 0, 1, "other query; same result (no rows)"),
            (
                "SELECT name FROM pet WHERE id > 9",
                "SELECT x FROM y",
                0,
                0,
                "other query; query failed: no such table: y",
            ),
            ("SELECT name FROM pet WHERE id > 9", "", 0, 0, "no answer; query failed: no statement"),
            ("SELECT x FROM pet", "SELECT x FROM pet", 1, None, "exact; the gold query failed: no such column: x"),
        ],
    )
    def test_execution(
        self, databases: Path, gold: str, output: str, normalised: int, execution: int | None, reason: str
    ) -> None:
        task = make_task("text_to_sql", databases=databases)
        verdict = task.judge(example(gold, db_id="pets"), output)
        assert (verdict.scores["normalised"], verdict.scores["execution"]) == (normalised, execution)
        assert verdict.reason == reason and verdict.correct == bool(normalised)

    def test_without_database_nothing_is_decided(self, databases: Path) -> None:
        for task in (make_task("text_to_sql"), make_task("text_to_sql", databases=databases)):
            assert scores(task, "SELECT 1", "SELECT 1", db_id="cars")["execution"] is None
            assert scores(task, "SELECT 1", "SELECT 1")["execution"] is None

    def test_databases_of_other_examples_are_refused(self, databases: Path, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", {"text": "a", "code": "b", "db_id": "cars"})
        with pytest.raises(DiptychError, match=r"holds no database of .*a\.jsonl, such as cars/cars\.sqlite"):
            make_task("text_to_sql", databases=databases).examples(path)

    def test_same_rows(self) -> None:
        assert same_rows([[1, "a"], [2, "b"]], [[2.0, "b"], [1.0000001, "a"]], ordered=False)
        assert not same_rows([[1, "a"], [2, "b"]], [[2, "b"], [1, "a"]], ordered=True)
        assert not same_rows([[1], [1], [2]], [[1], [2], [2]], ordered=False)
        assert not same_rows([[1, 2]], [[1]], ordered=False)
        assert not same_rows([[None]], [[0]], ordered=False)
        assert not same_rows([[1.0]], [[1.00001]], ordered=False)
        assert same_rows([[0.1 + 0.2, "b", 1], [0.3, "a", 2]], [[0.3, "b", 1], [0.1 + 0.2, "a", 2]], ordered=False)

    @settings(max_examples=50)
    @given(
        st.lists(st.tuples(st.sampled_from([None, "a", "b", 1, 2.5, 2**62]), st.integers()), max_size=6), st.randoms()
    )
    def test_order_of_rows_never_counts_unless_asked(self, rows: list[tuple[Any, int]], random: Any) -> None:
        shuffled = random.sample(rows, len(rows))
        assert same_rows(rows, shuffled, ordered=False)
        assert same_rows(rows, shuffled, ordered=True) or rows != shuffled


class TestGsm8k:
    @pytest.mark.parametrize(
        ("gold", "output", "number", "strict"),
        [
            ("so\n#### 18", "9*2 = 18\n#### 18", 1, 1),
            ("#### 1,080", "#### $1080.00", 1, 1),
            ("#### 1080", "it is 1,080.", 1, 0),
            ("#### -5", "#### −5", 1, 1),
            ("#### 0.5", "half, that is 1/2", 1, 0),
            ("#### 5", "10 - 5", 1, 0),
            ("#### 5", "10-5", 1, 0),
            ("#### 18", "#### 18\nQ: next\n#### 7", 1, 1),
            ("#### 18", "18 of them\n#### 7", 0, 0),
            ("#### 18", "#### about\n18", 1, 0),
            ("#### 18", "#### 180", 0, 0),
            ("#### 18", "#### 18.01", 0, 0),
            ("#### 18", "#### 1/0", 0, 0),
            ("#### 123", "1,2,3", 0, 0),
            ("#### 18", "eighteen", 0, 0),
            ("#### 18", "####", 0, 0),
        ],
    )
    def test_numbers(self, gold: str, output: str, number: int, strict: int) -> None:
        assert scores(make_task("gsm8k"), gold, output) == {"number": number, "strict": strict}

    def test_reasons(self) -> None:
        task = make_task("gsm8k")
        reasons = [task.judge(example("#### 2"), output).reason for output in ("#### 2", "2", "2.5", "two")]
        assert reasons == [
            "same number",
            "same number, without ####",
            "other number: 2.5",
            "no number that can be read",
        ]


class TestSentiment:
    ANSWERS = {"0": "Very Bad", "1": "Bad", "2": "Good"}  # noqa: RUF012

    def test_words_of_labels(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", {"text": "q", "label": 0}, {"text": "r", "label": 2})
        task = make_task("sentiment", answers={0: "Very Bad", 1: "Bad", 2: "Good"}, fields={"code": "label"})
        assert [(read.gold, read.facts) for read in task.examples(path)] == [
            ("Very Bad", {"label": "0"}),
            ("Good", {"label": "2"}),
        ]
        assert task.labels() == ("Very Bad", "Bad", "Good")
        path = write(tmp_path / "b.jsonl", {"text": "q", "label": 3})
        with pytest.raises(DiptychError, match=r"b\.jsonl:1: label '3' is none of the task's answers: 0, 1, 2"):
            task.examples(path)

    def test_labels_of_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", *({"text": "q", "label_name": name} for name in ("good", "bad", "good")))
        task = make_task("sentiment")
        assert task.labels() is None and task.labels(task.examples(path)) == ("bad", "good")

    @pytest.mark.parametrize(
        ("output", "correct"),
        [("bad", 1), (" Bad.\nvery bad", 1), ('"BAD"', 1), ("very bad", 0), ("not bad", 0), ("badly", 0), ("", 0)],
    )
    def test_only_the_word_counts(self, output: str, correct: int) -> None:
        assert scores(make_task("sentiment", answers=self.ANSWERS), "Bad", output) == {"accuracy": correct}

    @pytest.mark.parametrize(
        "output",
        [
            "“bad”",
            "❝bad❞",
            "´bad´",
            "¨bad¨",
            "\ufeffbad\u200b",
            "\u2060“bad”\u200d",
            "‘Bad’",
            "«bad»",
            "bad。",
            "bad…",
            "**bad**",
            "— Bad",
            "\uff42\uff41\uff44",
            "¡bad!",
            "\u00a0bad\u3000",
        ],
    )
    def test_punctuation_is_that_of_unicode(self, output: str) -> None:
        task = make_task("sentiment", answers=self.ANSWERS)
        assert scores(task, "Bad", output) == {"accuracy": 1}
        found = task.summary([example("Bad")], [], [output], task.labels() or ())
        assert found == {"macro_f1": 1, "unparsed": 0}
        assert scores(make_task("open_qa"), "bad", output, answers=["bad"])["match"] == 1

    def test_labels_of_punctuation_are_told_apart(self, tmp_path: Path) -> None:
        task = make_task("sentiment")
        assert [scores(task, "+", output)["accuracy"] for output in ("+", "-", "", "“+”")] == [1, 0, 0, 0]
        for labels in (("C", "C++"), ("Good", "good.")):
            path = write(tmp_path / "a.jsonl", *({"text": "q", "label_name": label} for label in labels))
            with pytest.raises(DiptychError, match="differ only in case or punctuation"):
                task.examples(path)

    def test_macro_f1(self) -> None:
        task = make_task("sentiment", answers=self.ANSWERS)
        golds = ["Bad", "Bad", "Good", "Very Bad"]
        outputs = ["Bad", "good", "good", "what?"]
        examples = [example(gold) for gold in golds]
        verdicts = [task.judge(*pair) for pair in zip(examples, outputs, strict=True)]
        # F1: Bad 2/3 (precision 1, recall 1/2), Good 2/3 (1/2, 1), Very Bad 0.
        found = task.summary(examples, verdicts, outputs, task.labels() or ())
        assert found == pytest.approx({"macro_f1": 4 / 9, "unparsed": 1 / 4})

    def test_a_label_stays_one_where_no_gold_has_it(self) -> None:
        task, examples = make_task("sentiment"), [example("good"), example("good")]
        found = task.summary(examples, [], ["bad", "good"], ("bad", "good"))
        assert found == pytest.approx({"macro_f1": (0 + 2 / 3) / 2, "unparsed": 0})


class TestOpenQa:
    @pytest.mark.parametrize(
        ("answers", "output", "match", "f1"),
        [
            (["Nine"], "nine.", 1, 1),
            (["Nine"], "There are Nine of them", 0, 1 / 3),
            (["the United States"], "United  States\nQ: more", 1, 1),
            (["U.S.", "America"], "an America", 1, 1),
            (["1914–1918"], "1914-1918", 1, 1),
            (["1914–1918"], "“1914‒1918”", 1, 1),
            (["a-laying", "six geese"], "six", 0, 2 / 3),
            (["102"], "10²", 0, 0),
            (["Beyoncé"], "BEYONCE\u0301", 1, 1),
            (["Straße"], "STRASSE", 1, 1),
            (["\u210cegel"], "hegel", 1, 1),
            (["Nine"], "N", 0, 0),
            (["The"], "", 0, 0),
            (["The"], "the", 1, 1),
            (["The"], "A", 0, 0),
            (["?!"], "!", 0, 0),
        ],
    )
    def test_matches(self, answers: list[str], output: str, match: int, f1: float) -> None:
        found = scores(make_task("open_qa"), answers[0], output, answers=answers)
        assert found == pytest.approx({"match": match, "f1": f1})

    def test_several_answers(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", {"text": "q", "code": "a; b; "}, {"text": "q", "code": ["a", "c"]})
        read = make_task("open_qa", answer_separator="; ").examples(path)
        assert [(one.gold, one.facts["answers"]) for one in read] == [("a", ["a", "b"]), ("a", ["a", "c"])]
        assert make_task("open_qa").examples(path)[0].facts["answers"] == ["a; b;"]


class TestExactMatch:
    @pytest.mark.parametrize(
        ("options", "output", "exact"),
        [
            ({}, "a  B\n", 1),
            ({}, "a B", 0),
            ({}, "a  b", 0),
            ({"whitespace": "exact"}, "a  B\n", 0),
            ({"whitespace": "exact"}, "a  B", 1),
            ({"whitespace": "collapse"}, " a\tB", 1),
            ({"whitespace": "collapse", "ignore_case": True}, "A b", 1),
            ({}, "a  B and more", 0),
        ],
    )
    def test_options(self, options: dict[str, Any], output: str, exact: int) -> None:
        assert scores(make_task("exact_match", **options), "a  B", output) == {"exact": exact}


@pytest.mark.parametrize(
    ("name", "file", "options"),
    [
        ("nl_regex", "nlrx_synth/test", {}),
        ("text_to_sql", "spider/test", {"prompt_with_db": True}),
        ("text_to_sql", "wikisql/test", {}),
        ("gsm8k", "gsm8k/test", {}),
        ("open_qa", "nq_open/test", {"answer_separator": "; "}),
        ("sentiment", "rotten_tomatoes/test", {}),
        ("sentiment", "rotten_tomatoes/test", {"answers": {0: "Bad", 1: "Good"}, "fields": {"code": "label"}}),
        ("sentiment", "sst5/test", {}),
        ("sentiment", "yelp5/test", {}),
        ("exact_match", "nlrx_synth/test", {}),
    ],
)
def test_gold_answers_are_correct_and_those_of_neighbours_mostly_not(
    shared: Path, name: str, file: str, options: dict[str, Any]
) -> None:
    task = make_task(name, **options)
    read = task.examples(shared / "data" / f"{file}.jsonl")
    assert len({one.id for one in read}) == len(read) > 900
    wrong = [one.id for one in read if not task.judge(one, f" {one.gold}\n").correct]
    assert wrong == []
    if name != "sentiment":
        some = read[:200]
        right = sum(task.judge(one, other.gold).correct for one, other in pairwise(some))
        assert right <= 5
