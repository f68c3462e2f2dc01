"""What a run returns, and the files that keep it.

A run is one JSON file whose path follows from its settings and its data; long arrays go into an
``.npz`` beside it. Files are written under another name and renamed, so a file that exists is a
finished run. The JSON file ends with a SHA-256 of its own text and holds that of the ``.npz``: both
are checked whenever a result is read, and so is that the name is the one its content asks for.
Files of format 1 carry no SHA-256 of their own: of them everything else is checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.files import write_file
from experiments.runs.pack import ResultError, run_paths, run_text

if TYPE_CHECKING:
    import pandas as pd

    from experiments.data.datasets import ImageData

FORMAT = 2
_UNSIGNED = 1  # the format that had no digest
_KINDS: dict[str, Any] = {
    "experiment": str,
    "status": str,
    "run": dict,
    "metrics": dict,
    "curves": dict,
    "arrays": str | None,
    "data": dict | None,
    "dtype": str,
}
_NO_DIGEST = "0" * 64
_WAY_OUT = "remove it, and the same command computes the run again"


@dataclass(frozen=True)
class Outcome:
    """What one run gives.

    Parameters
    ----------
    metrics : mapping of str to number or str
        Scalars, a column each of the results' table. NaN and infinities are kept as ``null``.
    curves : mapping of str to sequence
        Short series, kept in the JSON file (`read_result`).
    arrays : mapping of str to ndarray
        Long arrays, kept in an ``.npz`` file beside it (`read_arrays`).
    """

    metrics: Mapping[str, Any]
    curves: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a run may use beside its settings.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` and so on; never ``"auto"``.
    dtype : str
        ``"float32"`` or ``"float64"``.
    load : callable
        ``load(name)`` gives the `experiments.data.ImageData` of that name, read once a command.
    log : callable
        ``log(message)`` shows a line of progress on stderr.
    checkpoint : Path, optional
        Where a run that trains for long keeps its state; removed once its result is written.
    distributed : bool
        All processes of ``torchrun`` compute this run, and share its batches.
    writes : bool
        This process keeps what an interrupted run goes on from; of several, the first.
    """

    device: str
    dtype: str
    load: Callable[..., ImageData]
    log: Callable[[str], None]
    checkpoint: Path | None = None
    distributed: bool = False
    writes: bool = True


def jsonable(value: Any) -> Any:
    """``value`` in JSON's own types; infinities become ``"inf"`` and ``"-inf"``, NaN ``None``."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a result holds numbers, strings, lists and mappings; got {type(value)}")


def _from_json(value: Any) -> Any:
    """The inverse of `jsonable`, but that NaN stays ``None``."""
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return {"inf": math.inf, "-inf": -math.inf}.get(value, value) if type(value) is str else value


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinities(item) for item in value]
    return None if type(value) is str and value in ("inf", "-inf") else value


def result_path(
    folder: Path, experiment: str, run: Mapping[str, Any], *, fingerprint: str | None, dtype: str
) -> Path:
    """Path of a run's JSON file: a readable stem and a hash of all that determines the result.

    Parameters
    ----------
    folder : Path
        The ``--out`` folder.
    experiment : str
    run : mapping
        The run's settings.
    fingerprint : str or None
        Of the data, where the run uses a data set.
    dtype : str
    """
    whole = {"experiment": experiment, "run": run, "data": fingerprint, "dtype": dtype}
    text = json.dumps(jsonable(whole), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    words = [file_word(str(run[k])) for k in ("dataset", "method", "figure", "part") if k in run]
    for key in ("alpha", "seed"):
        if isinstance(run.get(key), int | float):
            words.append(f"{key}{run[key]:g}".replace("e+0", "e").replace("e+", "e"))
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join([*words, digest])).strip("-")
    return folder / experiment / "runs" / f"{stem}.json"


def file_word(name: str) -> str:
    """A data set's or a method's name in the name of a file: of a path its last part."""
    kind, _, place = name.partition(":")
    last = re.sub(r"[^A-Za-z0-9]+", "-", Path(place).name).strip("-")
    return f"{kind}-{last}" if place else name


def write_result(
    path: Path,
    *,
    experiment: str,
    run: Mapping[str, Any],
    outcome: Outcome,
    status: str = "done",
    data: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    **more: Any,
) -> None:
    """Write a finished run: its arrays first, then the JSON file that makes it count.

    Parameters
    ----------
    path : Path
        From `result_path`.
    experiment, run, outcome
    status : {"done", "diverged"}
    data : mapping, optional
        Name, label and fingerprint of the data set; the path is that of its fingerprint.
    dtype : str
    **more
        Further entries of the file: seconds, peak memory, versions, ...
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "experiment": experiment,
        "status": status,
        "run": jsonable(run),
        "metrics": _without_infinities(jsonable(outcome.metrics)),
        "curves": _without_infinities(jsonable(outcome.curves)),
        "arrays": None,
        "data": jsonable(data),
        "dtype": dtype,
        **jsonable(more),
    }
    if outcome.arrays:
        content = _npz(outcome.arrays)
        document["arrays"] = hashlib.sha256(content).hexdigest()
        write_file(path.with_suffix(".npz"), content)
    write_file(path, _signed(document).encode())


def _signed(document: Mapping[str, Any]) -> str:
    """The text of a result, with the SHA-256 of the text itself, that entry zeros, at its end."""
    blank = json.dumps({**document, "sha256": _NO_DIGEST}, indent=1, allow_nan=False) + "\n"
    before, _, after = blank.rpartition(_NO_DIGEST)
    return before + _sha(blank) + after


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
    return buffer.getvalue()


def read_result(path: Path) -> dict[str, Any]:
    """Return the content of a run's JSON file, with infinite settings as floats.

    Raises
    ------
    ResultError
        When the file is cut short, is no JSON, lacks an entry, was changed since it was written, or
        bears the name of another run; the message names it.
    """
    try:
        text = run_text(path)
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, OSError, RecursionError) as error:
        raise ResultError(f"{path} cannot be read as a result ({error}); {_WAY_OUT}") from error
    _check_entries(path, document)
    _check_digest(path, document, text)
    document["run"] = _from_json(document["run"])
    _check_name(path, document)
    return document


def _no_number(word: str) -> None:
    raise ValueError(f"it holds {word}")


def _check_entries(path: Path, document: Any) -> None:
    """Every entry that is read later is there and of its kind."""
    found = document if isinstance(document, dict) else {}
    signed = {"sha256"} if found.get("format") == FORMAT else set()
    if missing := {"format", *_KINDS, *signed} - found.keys():
        raise ResultError(f"{path} is not a result: it lacks {', '.join(sorted(missing))}")
    if found["format"] not in (_UNSIGNED, FORMAT):
        raise ResultError(f"{path} has format {found['format']!r}; this version reads {FORMAT}")
    wrong = [key for key, kind in _KINDS.items() if not isinstance(found[key], kind)]
    if not wrong:
        wrong += [key for key, one in found["metrics"].items() if isinstance(one, dict | list)]
        wrong += [key for key, some in found["curves"].items() if not isinstance(some, list)]
        wrong += [] if found["status"] in ("done", "diverged") else ["status"]
    if wrong:
        raise ResultError(f"{path} is not a result: its {', '.join(wrong)} is of another kind")


def _check_digest(path: Path, document: dict[str, Any], text: str) -> None:
    if document["format"] == _UNSIGNED and "sha256" not in document:
        return
    digest = str(document["sha256"])
    before, found, after = text.rpartition(digest) if len(digest) == len(_NO_DIGEST) else 3 * ("",)
    if not found or digest != _sha(before + _NO_DIGEST + after):
        raise ResultError(
            f"{path} was changed since it was written: its checksum is not that of its content; "
            f"{_WAY_OUT}"
        )


def _check_name(path: Path, document: dict[str, Any]) -> None:
    """A result must lie under the name that its settings, data and precision give."""
    run, data = document["run"], document["data"] or {}
    kind, mark = document["experiment"], data.get("fingerprint")
    name = result_path(Path(), kind, run, fingerprint=mark, dtype=document["dtype"]).name
    if name != path.name:
        raise ResultError(
            f"{path} holds another run than its name says, that of {name}: another setting, data "
            f"set or precision; {_WAY_OUT}"
        )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the long arrays of a run, given the path of its JSON file (empty without any).

    Raises
    ------
    ResultError
        When the ``.npz`` file is missing or is not the one that the run wrote.
    """
    expected = read_result(path)["arrays"]
    if expected is None:
        return {}
    beside = path.with_suffix(".npz")
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise ResultError(f"{beside} cannot be read ({error}); {_WAY_OUT}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ResultError(f"{beside} is damaged: its checksum is not the one in {path.name}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ResultError(f"{beside} holds no arrays ({error}); {_WAY_OUT}") from error


def joined_arrays(
    paths: Iterable[str], names: Iterable[str] | None = None, *, shared: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Long arrays of several runs (those of these names), each run's under the last one's.

    Those called ``shared`` are the same in all. Empty without runs.
    """
    groups = [read_arrays(Path(path)) for path in paths]
    return {
        name: groups[0][name] if name in shared else np.concatenate([g[name] for g in groups])
        for name in (names or groups[0] if groups else ())
    }


def load_results(paths: Path | Sequence[Path]) -> pd.DataFrame:
    """Return a DataFrame with a row a run.

    Columns are the run's settings, its metrics, and ``experiment``, ``status``, ``seconds``,
    ``cpu_seconds``, ``peak_memory_bytes``, ``memory_before_bytes``, ``peak_gpu_memory_bytes``,
    ``data_label``, ``data_fingerprint`` and ``path``.

    Parameters
    ----------
    paths : Path or sequence of Path
        JSON files, packed ones too (`experiments.runs.pack`), or a folder to be searched for them.
    """
    import pandas as pd

    if isinstance(paths, Path):
        paths = run_paths(paths)
    return pd.DataFrame([_row(path, read_result(path)) for path in paths])


def _row(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    data = document.get("data") or {}
    run = {k: tuple(v) if isinstance(v, list) else v for k, v in document["run"].items()}
    return {
        **run,
        **{k: v for k, v in document["metrics"].items() if k not in run},
        "experiment": document["experiment"],
        "status": document["status"],
        "seconds": document.get("seconds"),
        "cpu_seconds": document.get("cpu_seconds"),
        "peak_memory_bytes": document.get("peak_memory_bytes"),
        "memory_before_bytes": document.get("memory_before_bytes"),
        "peak_gpu_memory_bytes": document.get("peak_gpu_memory_bytes"),
        "data_label": data.get("label"),
        "data_fingerprint": data.get("fingerprint"),
        "path": str(path),
    }
