"""The version of this package; nothing else lives here, so that a build can read it."""

VERSION = "0.1.0"
