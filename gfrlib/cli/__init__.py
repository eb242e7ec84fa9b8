"""The command line: run, classify, grid, methods, records, compare, data, book.

Bad input is answered by one sentence on stderr and exit code 2.
"""

import sys

from gfrlib.cli import actions, packing, trained, words
from gfrlib.cli.progress import Progress as Progress
from gfrlib.cli.words import Parser
from gfrlib.config import METHODS, PRESETS, UserError, choices
from gfrlib.engine import paths

HELP = {  # of the settings that a reader's own data need
    "dataset": "digits, cifar100, a name that python -m gfrlib data has packed, or a "
    "path: a folder of images or an .npz file",
    "base": "classes in task 0",
    "tasks": "equal tasks after it",
    "split": "classes of every task, such as 4,3,3, instead of --base and --tasks",
    "weights": "of a pretrained extractor: imagenet, or a file",
    "penalty_weight": "of what is held: distillation, or importances",
    "seed": "of weights, batches, the generator, and a random class order",
    "validation": "share of the training images that is held out and tested on",
}
ENVIRONMENT = (
    "GFR_CACHE names a folder for records and checkpoints, GFR_HOME one for packed "
    "data, weights, records and checkpoints, instead of data/ in the repository."
)


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; returns the exit code: 0, 2 after bad input or what the machine
    refuses, 130 after Ctrl-C. --help raises SystemExit.
    """
    words.prepare_streams()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return _answered(arguments)
    except BrokenPipeError:
        words.drop_output()
        return 0
    except KeyboardInterrupt:
        said = words.interrupted(list(given), packing=packing.at_work())
        print(f"gfrlib: {said}", file=sys.stderr)
        return 130


def _answered(arguments: list[str] | None) -> int:
    try:
        paths.check_variables()
        options = _parser().parse_args(arguments)
        options.action(options)
        words.flush()
        return 0
    except BrokenPipeError:
        raise
    except UserError as problem:
        said = problem
    except (OSError, MemoryError) as problem:
        said = UserError(words.sentence(problem))
    print(f"gfrlib: {said}", file=sys.stderr)
    return 2


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gfrlib",
        description="Generative feature replay for class-incremental learning.",
        epilog=ENVIRONMENT,
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    _add_run(commands)
    _add_classify(commands)
    _add_grid(commands)
    methods = commands.add_parser("methods", help="the table of methods")
    methods.set_defaults(action=actions.methods)
    listing = commands.add_parser("records", help="what is recorded")
    listing.add_argument(
        "name", nargs="?", default="", help="the beginning of names; all if left out"
    )
    listing.set_defaults(action=actions.records)
    compare = commands.add_parser(
        "compare",
        help="which settings of two records differ, and by how much the results do",
    )
    compare.add_argument("a", help="a record: its file, or the beginning of its name")
    compare.add_argument("b", help="another")
    compare.set_defaults(action=actions.compare)
    _add_data(commands)
    _add_book(commands)
    return parser


def _add_run(commands) -> None:
    run = commands.add_parser(
        "run",
        help="train a run, or load the record of an equal one",
        allow_abbrev=False,
    )
    run.add_argument("--preset", default="quick", help=" | ".join(PRESETS))
    run.add_argument("--method", default="gfr", help=" | ".join(METHODS))
    run.add_argument(
        "--json",
        action="store_true",
        help="print the record and nothing else on standard output (not with "
        "--dry-run)",
    )
    _add_analyse(run)
    run.add_argument(
        "--save-weights",
        metavar="FILE",
        help="train up to task 0 (or TASK) alone, and write the extractor to FILE, "
        "which --weights takes",
    )
    run.add_argument(
        "--save-network",
        metavar="FILE",
        help="write the network after the run (or after TASK of it) to FILE, with "
        "which python -m gfrlib classify names the class of a picture",
    )
    run.add_argument(
        "--after",
        type=words.whole(0, 10**4),
        metavar="TASK",
        help="the task after which --save-weights keeps the extractor (0), or "
        "--save-network the network (the last; joint has no other)",
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="tell how long it will take, and train nothing",
    )
    settings = run.add_argument_group("settings (any field of gfrlib.config.Config)")
    for field in actions.settings():
        hyphens = f"--{field.name.replace('_', '-')}"
        spellings = dict.fromkeys([hyphens, f"--{field.name}"])
        about = {"metavar": _metavar(field), "help": HELP.get(field.name)}
        settings.add_argument(*spellings, dest=field.name, **about)
    run.set_defaults(action=actions.run)


def _add_classify(commands) -> None:
    told = (
        "Name the class of each picture, by the rule with which the run was tested. "
        "The answer is always one of the classes that the network has learned, also "
        "for a picture of none; it never says that it does not know."
    )
    classify = commands.add_parser(
        "classify", help="name the class of pictures with a network", description=told
    )
    classify.add_argument("file", help="what run --save-network has written")
    classify.add_argument(
        "images",
        nargs="+",
        metavar="image",
        help="a picture, or a folder: all in it and in its folders that are not hidden",
    )
    classify.add_argument(
        "--json",
        action="store_true",
        help="print the answers, and nothing else, on standard output",
    )
    classify.set_defaults(action=trained.classify)


def _add_analyse(command) -> None:
    command.add_argument(
        "--analyse",
        type=words.parts,
        default=(),
        metavar="PART,PART",
        help="parts of the analysis that what is recorded gets where it lacks them, "
        "from its stages, or trained again: similarity, projection, quality ...",
    )


def _add_grid(commands) -> None:
    grid = commands.add_parser(
        "grid", help="many runs from a YAML file, such as those in grids/"
    )
    grid.add_argument("file")
    grid.add_argument(
        "--dry-run",
        action="store_true",
        help="tell runs, shared stages and minutes, and train nothing",
    )
    grid.add_argument(
        "--jobs",
        type=words.whole(1, words.MOST_JOBS),
        default=1,
        help="processes at a time (default 1)",
    )
    grid.add_argument(
        "--ray",
        action="store_true",
        help="run on Ray: on the cluster of RAY_ADDRESS, or here with JOBS workers "
        "(one for each GPU where there are any)",
    )
    grid.add_argument(
        "--commit", action="store_true", help="commit every record to git as it is done"
    )
    _add_analyse(grid)
    grid.set_defaults(action=actions.grid)


def _add_data(commands) -> None:
    data = commands.add_parser(
        "data", help="bring a data set: decode it once into checked, packed arrays"
    )
    data.add_argument("name", help="the name it gets, such as cifar100")
    data.add_argument(
        "path",
        nargs="?",
        help="a folder of images (train/<class>/, test/<class>/ or val/<class>/; or "
        "<class>/) or a packed .npz file",
    )
    data.add_argument(
        "--verify",
        action="store_true",
        help="without PATH: read all of a packed data set and compare its checksum",
    )
    data.add_argument(
        "--classes",
        help="take only some classes of a folder: a file with one a line (such as "
        "data/tiny-imagenet-64.txt), a number (the first of the seed-1993 shuffle), "
        "names separated by commas; lucir | gfr: the 100 classes of ImageNet-Subset, "
        "from a folder of 1,000",
    )
    data.add_argument(
        "--as-stored",
        action="store_true",
        help="do not turn images as their EXIF orientation says (torchvision's way)",
    )
    data.add_argument(
        "--pixels",
        type=words.whole(1, 2**31),
        help="the most that an image may have (178956970)",
    )
    large = data.add_argument_group(
        "photographs of any size (always for a name that begins with imagenet, and "
        "for --classes lucir or gfr)",
        "decoded in parallel to squares, resumably; unreadable files are named and "
        "left out",
    )
    large.add_argument(
        "--size",
        type=words.whole(1, 4096),
        help="side of the stored squares, such as 128 for photographs of your own "
        "(imagenet: 256)",
    )
    large.add_argument(
        "--crop",
        type=words.whole(0, 4096),
        help="side of the random resized crops in training (for a name that begins "
        "with imagenet, and for --classes lucir or gfr, 7/8 of the size); 0, as "
        "elsewhere with --size: training pads and crops",
    )
    large.add_argument(
        "--workers",
        type=words.whole(0, words.MOST_JOBS),
        help="processes that decode (all processors)",
    )
    data.set_defaults(action=packing.data)


def _add_book(commands) -> None:
    book = commands.add_parser(
        "book", help="run chapters with papermill, or check that they are fresh"
    )
    what = book.add_subparsers(dest="what", required=True, parser_class=Parser)
    chapter = what.add_parser("run", help="run one chapter, or all, where stale")
    chapter.add_argument(
        "chapter", nargs="?", help="such as 02_replay; all of them if left out"
    )
    chapter.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the chapter; may be repeated (an unknown NAME lists them)",
    )
    chapter.add_argument(
        "--out",
        help="folder for the executed notebooks (default: the book's own build; with "
        "-p build/runs)",
    )
    chapter.set_defaults(action=actions.book_run)
    check = what.add_parser("check", help="name every chapter that is stale")
    check.set_defaults(action=actions.book_check)


def _metavar(field) -> str:
    """The words that a setting takes, or the kind of its value."""
    if isinstance(field.default, tuple):
        return "COUNTS"
    if words := choices(field.name):
        return "|".join(words)
    return {bool: "BOOL", int: "INT", float: "FLOAT"}.get(type(field.default), "NAME")
