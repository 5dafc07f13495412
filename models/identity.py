"""Which family of encoders a checkpoint's side belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .custom_family import family_from
from .families import Evidence, Family, QuerySide, check_family, detect_family, published_family
from .hub import Located
from .layout import EncoderFiles, locate_encoder
from .options import OpenOptions
from .weights import load_config


@dataclass(frozen=True)
class Identity:
    """What kind of encoder one side is.

    Attributes
    ----------
    family : Family
        The family of the encoder.
    chosen : bool
        Whether the user or a hub id chose the family. Then the family decides which terms get no weight; else the
        files do.
    query_side : str
        What turns a query into weights.
    config : transformers.PretrainedConfig
        The configuration of the model. A table has that of the document encoder it belongs to.
    """

    family: Family
    chosen: bool
    query_side: QuerySide
    config: Any


def identify(located: Located, files: EncoderFiles, options: OpenOptions) -> Identity:
    """Find the family, the query side and the transformers configuration of one side.

    Parameters
    ----------
    located : Located
        The checkpoint's directory and where it came from.
    files : EncoderFiles
        The files of the side.
    options : OpenOptions
        ``options.family`` overrides detection.

    Raises
    ------
    CheckpointError
        If no family fits, or the files contradict the family.
    """
    encoder = files if files.table is None else locate_encoder(located.path, "document")
    config = load_config(encoder.directory, trust_remote_code=options.trust_remote_code)
    evidence = Evidence(
        name=located.name.rpartition("/")[2],
        model_type=config.model_type,
        pooling=encoder.pooling,
        activation=encoder.activation,
        query_side=files.query_side,
        hub_id=located.name if located.revision else "",
    )
    chosen = family_from(options.family) if options.family else None
    if chosen is None and not files.modules:  # modules state it all themselves
        chosen = published_family(evidence)
    family = chosen or detect_family(evidence)
    check_family(family, evidence)
    return Identity(family, chosen is not None, files.query_side or family.query_sides[0], config)
