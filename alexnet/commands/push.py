"""`alexnet push`: a Hugging Face folder uploaded to the hub."""

import json
from dataclasses import dataclass, field

from alexnet.files import as_path
from alexnet.options import POSITIONAL, check_values, require


@dataclass(frozen=True)
class Options:
    """The folder, and its destination."""

    # A folder that `alexnet convert ... --to hf-folder` wrote.
    folder: str = field(metadata=POSITIONAL)
    # ORG/NAME on the hub; created as private if it doesn't exist.
    repo: str = field(metadata=POSITIONAL)
    # Let everyone see what is uploaded.
    public: bool = False
    # Branch to upload to, created if it doesn't exist; by default the main one.
    revision: str | None = None
    # Commit message.
    message: str = "Upload weights"
    # Print JSON.
    json: bool = False

    def __post_init__(self) -> None:
        """Check each option."""
        check_values(self)
        require(bool(self.message.strip()), "message", self.message, "some words")


def main(options: Options) -> int:
    """Upload, and print where it is."""
    from alexnet.hub import push

    done = push(
        as_path(options.folder),
        options.repo,
        public=options.public,
        revision=options.revision,
        message=options.message,
    )
    seen = "private" if done["private"] else "public"
    sentence = f"{options.folder} -> {done['url']} ({seen}), commit {done['commit']}"
    print(json.dumps(done, indent=2) if options.json else sentence)
    return 0
