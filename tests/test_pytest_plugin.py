"""The pytest plugin, as pytest runs it: in a sample project, in small test files, under xdist."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest_plugins = ("pytester",)

SAMPLE = Path(__file__).parent / "sample_project"
MODELS = ("cnn.onnx", "cnn.tflite", "cnn_opset_b.onnx", "cnn_int8.tflite", "cnn_weight_fault.tflite")
BASELINE = "aligndbg_baselines/test_exports/test_a_known_difference.json"
INSTALLED = bool(entry_points(group="pytest11", name="aligndbg"))


@pytest.fixture(scope="module", autouse=True)
def _loaded(demo: Path) -> None:
    """Packages loaded by an inner pytest are forgotten after it, and numpy cannot be loaded twice."""
    import aligndbg

    aligndbg.diff(demo / "reference.onnx", demo / "candidate.tflite").to_html()


@pytest.fixture
def project(pytester: pytest.Pytester, fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder in which pytest runs with the plugin, with the models in `models/`."""
    if not INSTALLED:  # the tree is on the path, without its entry points
        monkeypatch.setenv("PYTEST_PLUGINS", "aligndbg.pytest_plugin")
    (pytester.path / "models").mkdir()
    for name in MODELS:
        shutil.copy(fixtures / name, pytester.path / "models")
    return pytester


@pytest.fixture
def sample(project: pytest.Pytester) -> pytest.Pytester:
    shutil.copytree(SAMPLE, project.path, dirs_exist_ok=True)
    return project


PAIR = (
    'PAIR = ("models/cnn.onnx", "models/cnn.tflite")\nFAULTY = ("models/cnn.onnx", "models/cnn_weight_fault.tflite")\n'
)


def write(project: pytest.Pytester, body: str, **others: str) -> None:
    project.makepyfile(test_it=f"import pytest\n{PAIR}{body}", **others)


def test_the_sample_project(sample: pytest.Pytester) -> None:
    ran = sample.runpytest_subprocess("-W", "error", "--aligndbg-html", "pages", "--junitxml", "junit.xml")
    ran.assert_outcomes(passed=3, failed=3)
    ran.stdout.fnmatch_lines(
        [
            "_* TestInt8.test_too_much_is_asked *",
            "E*DivergedError: DIVERGED*cosine * < 0.99999",
            "_* test_a_broken_export *",
            ">*assert_aligned(REFERENCE*",
            "E*DivergedError: DIVERGED  1 fault",
            "E*fault 1: *own error 0.*",
            "E*weight: the candidate's weights of Conv are 1.5 times *",
            "E* status reference *",
            "E* fault *",
            "E*reproduce: aligndbg diff *cnn.onnx *cnn_weight_fault.tflite --input *input.npz --min-coverage 0.9",
            "E*report:*test_exports.py.test_a_broken_export*.html",
            "_* test_a_known_difference *",
            "E*there is no baseline *test_a_known_difference.json*--aligndbg-update*",
        ]
    )
    assert not any("aligndbg/_assert.py" in line for line in ran.outlines)  # the failure is the test's own line
    assert len(list((sample.path / "pages").glob("*.html"))) == 6  # of what passes too
    cases = {case.get("name"): case for case in ElementTree.parse(sample.path / "junit.xml").iter("testcase")}
    kept = {p.get("name"): p.get("value") for p in cases["test_a_broken_export"].iter("property")}
    assert kept["aligndbg"] == "diverged: 1 fault"
    assert (kept["aligndbg_cause"] or "").startswith("weight: the candidate's weights of Conv are 1.5 times")
    assert Path(kept["aligndbg_html"] or "").is_file()


def test_the_command_of_a_failure_repeats_it(project: pytest.Pytester) -> None:
    write(
        project,
        "import numpy as np\n"
        "def test_it(assert_aligned):\n"
        "    x = np.random.default_rng(1).random((1, 3, 32, 40), np.float32)\n"
        "    assert_aligned(*FAULTY, (x,), tolerances=['op=Conv:rel_l2=1e-5'], isolate=False)\n",
    )
    ran = project.runpytest_inprocess()
    ran.assert_outcomes(failed=1)
    line = next(line for line in ran.outlines if "reproduce:" in line)
    words = shlex.split(line.partition("reproduce:")[2])
    assert words[0] == "aligndbg"
    again = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stderr
    verdict = next(line for line in ran.outlines if "DIVERGED" in line).partition("Error: ")[2]
    assert again.stdout.splitlines()[0] == verdict


def test_a_baseline_is_written_fails_once_and_then_holds(sample: pytest.Pytester) -> None:
    chosen = ("-k", "known_difference")
    written = sample.runpytest_inprocess(*chosen, "--aligndbg-update")
    written.assert_outcomes(failed=1)  # a new baseline never goes unseen
    written.stdout.fnmatch_lines(["*the baseline *was written: look at it*"])
    path = sample.path / BASELINE
    kept = json.loads(path.read_text())
    assert (kept["verdict"], len(kept["faults"])) == ("diverged", 1)
    sample.runpytest_inprocess(*chosen).assert_outcomes(passed=1)
    sample.runpytest_inprocess(*chosen, "--aligndbg-update").assert_outcomes(passed=1)  # nothing to write

    for pair in kept["pairs"].values():
        pair["status"] = "pass"
    kept["faults"] = []
    path.write_text(json.dumps(kept))
    worse = sample.runpytest_inprocess(*chosen)
    worse.assert_outcomes(failed=1)
    worse.stdout.fnmatch_lines(["E*worse than the baseline *", "E*a new fault at *", "E*was pass, it is fault*"])
    sample.runpytest_inprocess(*chosen, "--aligndbg-update").assert_outcomes(failed=1)
    sample.runpytest_inprocess(*chosen).assert_outcomes(passed=1)


def test_under_xdist(sample: pytest.Pytester) -> None:
    ran = sample.runpytest_subprocess("-n", "2", "--aligndbg-html", "pages", "--junitxml", "junit.xml")
    ran.assert_outcomes(passed=3, failed=3)
    assert len(list((sample.path / "pages").glob("*.html"))) == 6
    names = [p.get("name") for p in ElementTree.parse(sample.path / "junit.xml").iter("property")]
    assert names.count("aligndbg") == names.count("aligndbg_html") == 6


def test_defaults_come_from_the_ini_file_then_markers_then_the_call(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\naligndbg_min_cosine = 1.5\naligndbg_tolerances =\n    op=Relu:min_cosine=1.5\n")
    write(
        project,
        "def test_ini(assert_aligned):\n    assert_aligned(*PAIR)\n"
        "@pytest.mark.aligndbg(min_cosine=0.9, tolerances=())\n"
        "class TestMarked:\n"
        "    def test_class(self, assert_aligned):\n        assert_aligned(*PAIR)\n"
        "    @pytest.mark.aligndbg(min_cosine=1.5)\n"
        "    def test_closest(self, assert_aligned):\n        assert_aligned(*PAIR)\n"
        "    @pytest.mark.aligndbg(min_cosine=1.5)\n"
        "    def test_call(self, assert_aligned):\n        assert_aligned(*PAIR, min_cosine=0.9)\n",
    )
    ran = project.runpytest_inprocess("-rA")
    ran.assert_outcomes(passed=2, failed=2)
    ran.stdout.fnmatch_lines_random(["PASSED *test_class", "PASSED *test_call"])


@pytest.mark.parametrize(
    ("marker", "said"),
    [("min_cosin=0.9", "*no option 'min_cosin'*min_cosine*"), ("0.9", "*takes options by name*")],
)
def test_a_wrong_marker_is_an_error(project: pytest.Pytester, marker: str, said: str) -> None:
    write(project, f"@pytest.mark.aligndbg({marker})\ndef test_it(assert_aligned):\n    assert_aligned(*PAIR)\n")
    ran = project.runpytest_inprocess("--strict-markers")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines([said])


def test_a_wrong_ini_value_is_an_error(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\naligndbg_atol = tiny\n")
    write(project, "def test_it(assert_aligned):\n    assert_aligned(*PAIR)\n")
    ran = project.runpytest_inprocess()
    ran.stdout.fnmatch_lines(["*aligndbg_atol: 'tiny' is not a number*"])


def test_a_missing_model_is_said_in_a_line(project: pytest.Pytester) -> None:
    write(project, "def test_it(assert_aligned):\n    assert_aligned('models/cnn.onnx', 'models/cn.tflite')\n")
    ran = project.runpytest_inprocess()
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["E*ModelError: models/cn.tflite: no such file", "E*did you mean cnn.tflite*"])
    assert not any("/aligndbg/" in line for line in ran.outlines)


def test_tests_of_like_names_share_no_file(project: pytest.Pytester) -> None:
    write(
        project,
        "@pytest.mark.parametrize('name', ['a/b', 'a_b', 'a b', '<a>', 'x' * 300])\n"
        "def test_it(assert_aligned, name):\n"
        "    for _ in range(2):\n        assert_aligned(*PAIR, isolate=False, checks=False)\n",
    )
    project.runpytest_inprocess("--aligndbg-html", "pages").assert_outcomes(passed=5)
    assert len(list((project.path / "pages").iterdir())) == 10


def test_a_baseline_that_is_none_is_an_error(project: pytest.Pytester) -> None:
    write(project, "def test_it(assert_aligned):\n    assert_aligned(*PAIR, baseline='mine')\n")
    kept = project.path / "aligndbg_baselines" / "test_it" / "mine.json"
    kept.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"schema": "other/1"}'):
        kept.write_text(text)
        ran = project.runpytest_inprocess()
        ran.assert_outcomes(failed=1)
        ran.stdout.fnmatch_lines(["E*UsageError: *mine.json*baseline*"])


def test_nothing_heavy_is_loaded_to_collect(project: pytest.Pytester) -> None:
    write(project, "def test_it(assert_aligned):\n    assert_aligned(*PAIR)\n")
    project.makeconftest(
        "import sys\n"
        "def pytest_collection_finish():\n"
        "    heavy = {'numpy', 'onnx', 'onnxruntime', 'pandas', 'rich', 'jinja2'} & set(sys.modules)\n"
        "    print('loaded:', sorted(heavy), 'aligndbg.pytest_plugin' in sys.modules)\n"
    )
    ran = project.runpytest_subprocess("--collect-only", "-s")
    ran.stdout.fnmatch_lines(["loaded: [[]] True"])


def test_no_test_without_the_fixture_is_touched(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it():\n    assert 1 + 1 == 2\n")
    ran = project.runpytest_subprocess("-W", "error", "--aligndbg-html", "pages")
    ran.assert_outcomes(passed=1)
    assert not (project.path / "pages").exists()
