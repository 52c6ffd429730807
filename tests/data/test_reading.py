"""Files of sequences: what is read, and what is said of a file that is wrong."""

import numpy as np
import pytest

from miniattn import data


@pytest.fixture
def write(tmp_path):
    """Write a file, return its path."""

    def to(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return to


def shown(found):
    return [x.tolist() for x in found.X], found.y.tolist(), found.names, found.ids


def test_a_row_for_each_step_in_the_order_of_the_file(write):
    path = write("who,x,y,label\na,1,2,up\nb,5,6,down\na,3,4,up\n")
    assert shown(data.read_csv(path, sequence="who")) == (
        [[[1, 2], [3, 4]], [[5, 6]]],
        ["up", "down"],
        ("x", "y"),
        ["a", "b"],
    )


def test_a_row_for_each_step_in_the_order_of_time(write):
    path = write("label,t,who,x\n1,10,a,3\n1,9,a,2\n0,2024,b,7\n")
    X, y, names, _ = shown(data.read_csv(path, sequence="who", time="t"))
    assert (X, y, names) == ([[[2], [3]], [[7]]], [1, 0], ("x",))
    dates = write("label,t,who,x\n1,2024-02-01,a,3\n1,2024-01-31,a,2\n")
    assert shown(data.read_csv(dates, sequence="who", time="t"))[0] == [[[2], [3]]]


def test_a_row_for_each_sequence_ends_in_empty_cells(write):
    found = data.read_csv(write("\ufefflabel,0,1,2\n1.5,1,2,3\n\n2,4,,\n"))
    assert shown(found) == ([[[1], [2], [3]], [[4]]], [1.5, 2.0], ("value",), ["0", "1"])
    bare = data.read_csv(write("b\t1\t2\nc\t3\n", "a.tsv"), header=False, label="0", delimiter="\t")
    assert shown(bare)[:2] == ([[[1], [2]], [[3]]], ["b", "c"])


def test_columns_that_are_chosen_and_tables_without_labels(write):
    path = write("who,x,y\na,1,2\na,3,4\n")
    found = data.read_csv(path, sequence="who", label=None, columns=["y"])
    assert found.y is None
    assert found.X[0].tolist() == [[2], [4]]


def test_texts_and_tokens(write):
    texts = data.read_csv(write('text,label\n"to be, or",yes\nnot,no\n'))
    assert texts.X == ["to be, or", "not"]
    words = data.read_csv(write("s,word,label\n1,to,y\n1,be,y\n2,42,n\n"), sequence="s")
    assert words.X == [["to", "be"], ["42"]]


WRONG = [
    ({}, "who,x\na,1\n", "expected a column of", "got 'label'; it has ['who', 'x']"),
    ({}, "", "expected at least one sequence", "got none"),
    ({}, "label,x\n", "expected at least one sequence", "got none"),
    ({}, "label,x,x\n1,2,3\n", "expected names that differ", "['x'] twice"),
    ({}, "label,x\n1,2,3\n", "line 2: expected at most 2 cells", "got 3"),
    ({}, "label,x,y\n1,2,3\n0,,3\n", "line 3, x: expected a number", "got nothing"),
    ({}, "label,x,y\n1,2,3\n0,1,1e999\n", "line 3, y: expected a finite number", "got '1e999'"),
    ({}, "label,x,y\n1,2,3\n0,1,b\n", "line 3, y: expected a number", "got 'b'"),
    ({}, "label,x,y\n1,2,3\n,1,2\n", "line 3, label: expected something", "got nothing"),
    ({}, "label,x,y\n1,2,3\n0,,\n", "line 3: expected at least one step", "got none"),
    ({}, "label\n1\n", "columns: expected at least one column with steps", "got ['label']"),
    ({"time": "x"}, "label,x\n1,2\n", "time: expected sequence= beside it", "got None"),
    ({"columns": ["z"]}, "label,x\n1,2\n", "columns: expected a column of", "got 'z'"),
    (
        {"sequence": "s"},
        "s,x,label\na,1,u\na,2,v\n",
        "line 3, label: expected 'u', as the sequence has it in line 2",
        "got 'v'",
    ),
    (
        {"sequence": "s", "time": "t"},
        "s,t,x,label\na,1,1,u\na,1,2,u\n",
        "line 3, t: expected a time of its own",
        "got 1 a second time",
    ),
    ({"header": 1}, "label,x\n1,2\n", "header: expected", "got 1"),
]


@pytest.mark.parametrize(("options", "text", "expected", "got"), WRONG)
def test_a_wrong_table_is_told_where(options, text, expected, got, write):
    with pytest.raises((ValueError, TypeError)) as error:
        data.read_csv(write(text), **options)
    assert expected in str(error.value)
    assert got in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"label,x\n\xff,1\n")
    with pytest.raises(ValueError, match="expected text in columns"):
        data.read_csv(tmp_path / "a.csv")


TS = """# about
@problemName Two
@univariate false
@classLabel true a b
@data
1,2,3:4,5,6:a
7,8:9,10:b
"""


def test_ts(write):
    X, y, names, _ = shown(data.read_ts(write(TS)))
    assert X == [[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 10]]]
    assert (y, names) == (["a", "b"], ("feature 0", "feature 1"))
    targets = write("@targetLabel true\n@data\n1,2:0.5\n3:-1\n")
    assert shown(data.read_ts(targets))[1] == [0.5, -1.0]
    assert data.read_ts(write("@data\n1,2\n")).y is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2:a\n", "line 1: expected @data before the sequences, got '1,2:a'"),
        ("@data\n", "expected @data and at least one sequence, got none"),
        (TS + "1:2:c\n", "line 8: expected a class of ['a', 'b'], got 'c'"),
        (TS + "1,2:3:a\n", "line 8: expected dimensions of one length, got lengths [2, 1]"),
        (TS + "1,2:a\n", "line 8: expected 2 dimensions like the first sequence, got 1"),
        (TS + "1,?:3,4:a\n", "line 8, dimension 0, step 1: expected a number, got '?'"),
        ("@timeStamps true\n@data\n(0,1)\n", "expected values alone, got @timeStamps true"),
    ],
)
def test_a_wrong_ts_is_told_where(text, message, write):
    with pytest.raises(ValueError) as error:
        data.read_ts(write(text))
    assert message in str(error.value)


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    steps = np.arange(12.0).reshape(2, 3, 2)
    np.savez(path, X=steps, lengths=[3, 1], y=[0, 1])
    found = data.read_npz(path)
    np.testing.assert_array_equal(found.X[0], steps[0])
    np.testing.assert_array_equal(found.X[1], steps[1, :1])
    np.savez(path, series=steps.reshape(6, 2), lengths=[4, 2])
    found = data.read_npz(path, X="series", y=None)
    assert [x.shape for x in found.X] == [(4, 2), (2, 2)]
    np.savez(path, X=np.array([5, 6, 7]), lengths=[1, 2], y=["a", "b"])
    assert [x.tolist() for x in data.read_npz(path).X] == [[5], [6, 7]]  # tokens
    np.savez(path, X=np.ones((2, 4), np.float32), y=[0, 1])
    assert data.read_npz(path).X[0].shape == (4, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((2, 2))}, "expected an array 'X', got ['x']"),
        ({"X": np.ones((2, 2))}, "expected an array 'y', got ['X']"),
        ({"X": np.ones((2, 2)), "y": [1]}, "y: expected a label for each of 2 sequences"),
        ({"X": np.ones((2, 2)), "y": [1, 2], "lengths": [3, 1]}, "lengths: expected 2 lengths of"),
        ({"X": np.ones((2, 2)), "y": [1], "lengths": [1]}, "lengths: expected 2 lengths of"),
        ({"X": np.ones(3), "y": [1], "lengths": [2]}, "lengths: expected a sum of 3"),
        ({"X": np.ones((1, 3)), "y": [1], "lengths": [-1]}, "lengths: expected (n,) ints >= 0"),
        ({"X": np.array([[1], [2, 3]], object), "y": [1, 2]}, "X: expected numbers or strings"),
        ({"X": np.ones((1, 1, 1, 1)), "y": [1]}, "expected (n, T) or (n, T, width)"),
    ],
)
def test_a_wrong_npz(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises((ValueError, TypeError)) as error:
        data.read_npz(tmp_path / "a.npz")
    assert message in str(error.value)


def test_npy_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ValueError, match="got one array"):
        data.read_npz(tmp_path / "a.npy")
    for content in (b"", b"PK\x03\x04 no zip", b"text"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz: expected arrays with names"):
            data.read_npz(tmp_path / "a.npz")
