"""Fuzzes what takes shapes or files from outside, guided by coverage (pip install atheris).

    python tools/fuzz.py TARGET [--seconds 600]

The targets are the functions `fuzz_TARGET` of tests/fuzz. libFuzzer, which comes with atheris, calls
those of kernels.cc in a build of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
It starts from the inputs in tests/fuzz/seeds/TARGET, which the test suite runs too, and collects what
it finds in build/fuzz/TARGET; an input that crashes is left in build/fuzz as TARGET-crash-…, to be
kept among the seeds once the mistake is mended.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import sys

from sanitize import BUILD, ROOT, build, environment

FUZZ = ROOT / "tests" / "fuzz"
KERNELS = re.findall(r"^TARGET\((\w+)\)", (FUZZ / "kernels.cc").read_text(), re.MULTILINE)
MASKS = re.findall(r"^def fuzz_(\w+)", (FUZZ / "masks.py").read_text(), re.MULTILINE)


def _fuzz(target: str, arguments: list[str]) -> None:
    """In a process of its own: hands the target to libFuzzer, which does not return."""
    import atheris  # noqa: PLC0415 - an optional dependency
    from atheris import core_with_libfuzzer  # noqa: PLC0415 - an optional dependency

    if target in KERNELS:
        library = ctypes.PyDLL(str(BUILD / "fuzzer" / "libfuzzed_kernels.so"))
        library.report_coverage.restype = ctypes.c_bool
        if not library.report_coverage(core_with_libfuzzer.__file__.encode()):
            sys.exit("this atheris keeps its libFuzzer elsewhere")
        call = library[f"fuzz_{target}"]
        call.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

        def run(data: bytes) -> None:
            call(data, len(data))
    else:
        sys.path.insert(0, str(FUZZ))
        with atheris.instrument_imports(include=["json", "zipfile"]):
            import masks  # noqa: PLC0415 - instrumented as it is imported
        import numpy as np  # noqa: PLC0415 - for these targets alone

        # What is imported already, or by a loader of its own, is not seen by the above.
        atheris.instrument_func(masks.MaskConstraint.from_config.__func__)
        for module in (masks.mask_files, np.lib._format_impl, np.lib._npyio_impl):
            for function in vars(module).values():
                if hasattr(function, "__code__"):
                    atheris.instrument_func(function)
        run = getattr(masks, f"fuzz_{target}")

    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()


def _start(target: str, *arguments: object) -> int:
    command = [sys.executable, __file__, target, "--", *map(str, arguments)]
    sanitized = environment("address") if target in KERNELS else None
    return subprocess.run(command, env=sanitized, check=False).returncode


def main() -> int:
    """Fuzzes one target; fails if libFuzzer found anything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=[*KERNELS, *MASKS])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("libfuzzer", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    target = options.target
    if options.libfuzzer:
        _fuzz(target, options.libfuzzer)
    corpus, seeds = BUILD / "fuzz" / target, FUZZ / "seeds" / target
    corpus.mkdir(parents=True, exist_ok=True)
    seeds.mkdir(parents=True, exist_ok=True)
    if target in KERNELS:
        build("fuzzer", "fuzzed_kernels")
    return _start(
        target,
        f"-max_total_time={options.seconds}",
        f"-artifact_prefix={corpus.parent}/{target}-",
        "-rss_limit_mb=6000",
        "-print_final_stats=1",
        corpus,
        seeds,
    )


if __name__ == "__main__":
    sys.exit(main())
