"""What each finding means to the person who wrote the migration: why, what to write instead, in how many releases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bluegreen.schema.facts import Finding


@dataclasses.dataclass(frozen=True)
class Text:
    """`releases`: how many deploys the safe way takes; 0 where it is not a matter of releases."""

    why: str
    instead: str = ""
    releases: int = 1


_CONTRACT = """\
release 1: stop using it in code, and take it out of the models only:
    migrations.SeparateDatabaseAndState(state_operations=[{removal}])
    (a NOT NULL column first needs a default: migrations.RunSQL(
     'ALTER TABLE "{bare}" ALTER COLUMN "{column}" SET DEFAULT …', 'ALTER TABLE "{bare}" ALTER COLUMN "{column}" DROP DEFAULT'))
release 2: drop it: migrations.RunSQL('ALTER TABLE …', …), to be approved because the data is gone"""
_EXPAND = """\
release 1: add the new one beside the old, nullable, and write both
then fill it in batches
release 2: read the new one
release 3: take the old one away"""
_CONSTRAINT = """\
migrations.RunSQL('ALTER TABLE "{bare}" ADD CONSTRAINT "{name}" {definition} NOT VALID',
                  'ALTER TABLE "{bare}" DROP CONSTRAINT "{name}"')
and in a migration of its own:
migrations.RunSQL('ALTER TABLE "{bare}" VALIDATE CONSTRAINT "{name}"', migrations.RunSQL.noop)"""
_CONCURRENTLY = """\
class Migration(migrations.Migration):
    atomic = False
    operations = [django.contrib.postgres.operations.AddIndexConcurrently("{model}", models.Index(…))]"""

TEXTS: Mapping[str, Text] = {
    # a release does not fit
    "missing-table": Text("the {release} release uses this table ({model}) and it is not there", _CONTRACT, 2),
    "missing-column": Text("the {release} release reads and writes this column ({model}) and it is not there", _CONTRACT, 2),
    "renamed-table": Text("the live release uses this table ({model}) by its old name", "keep the table's name: class Meta: db_table = \"{bare}\"", 1),
    "renamed-column": Text(
        "the live release reads and writes this column ({model}) by its old name",
        'keep the column\'s name: models.…Field(db_column="{column}"), with RenameField in SeparateDatabaseAndState(state_operations=[…])', 1),
    "insert-omits": Text(
        "the {release} release does not write this column, and it is NOT NULL without a default: its INSERTs fail",
        "models.…Field(null=True), or db_default=… (Django 5.0 and newer), or a default in the database:\n"
        "migrations.RunSQL('ALTER TABLE \"{bare}\" ALTER COLUMN \"{column}\" SET DEFAULT …', 'ALTER TABLE \"{bare}\" ALTER COLUMN \"{column}\" DROP DEFAULT')", 2),
    "lost-default": Text("the {release} release relies on the database's default of this column, and there is none", "keep the default until no running release relies on it", 2),
    "computed": Text("the {release} release writes this column, and now the database computes it: its INSERTs fail", _EXPAND, 3),
    "not-null": Text(
        "the {release} release may write NULL here (its field has null=True; a default in the database does not help): its writes fail",
        "release 1: the code never writes NULL any more (null=False on the field, in SeparateDatabaseAndState(state_operations=[…])), fill what is NULL\n"
        "release 2: ADD CONSTRAINT … CHECK (\"{column}\" IS NOT NULL) NOT VALID; VALIDATE CONSTRAINT; then SET NOT NULL", 2),
    "too-narrow": Text("the {release} release's model is {expects}, the column only {type}: what it writes may not fit", "add the migration that widens the column: makemigrations", 1),
    "another-type": Text("the {release} release's model is {expects}, the column {type}: what it reads and writes is something else", _EXPAND, 3),
    # what changed
    "type-narrower": Text("{old} becomes {new}: values that the live release writes are refused, and the migration fails if one is there", _EXPAND, 3),
    "type-changed": Text("{old} becomes {new}: the live release reads and writes another type", _EXPAND, 3),
    "type-larger": Text("{old} becomes {new}: the table is rewritten under a lock, or values get larger than the live release knows", _EXPAND, 3),
    "type-unused": Text("{old} becomes {new}: the live release does not mind, but values may not fit", "", 1),
    "type-wider": Text("{old} becomes {new}: nothing is rewritten, everything fits", "", 1),
    "collation": Text("another collation: the order of the live release's answers changes and indexes are rebuilt", _EXPAND, 3),
    "may-read-null": Text("NOT NULL is dropped and the live release ({model}) does not expect NULL: it may read what the new one writes",
                          "let the new release go on writing a value until the next one", 2),
    "not-null-dropped": Text("NOT NULL is dropped; the live release does not mind"),
    "not-null-scan": Text("SET NOT NULL reads the whole table ({rows} rows) while nobody can use it",
                          "ADD CONSTRAINT … CHECK (\"{column}\" IS NOT NULL) NOT VALID; VALIDATE CONSTRAINT …; then SET NOT NULL reads nothing", 1),
    "drop-column": Text("no release that runs uses this column, but its data is gone for good", "", 1),
    "drop-table": Text("no release that runs uses this table, but its data ({rows} rows) is gone for good", "", 1),
    "drop-view": Text("the view is gone; reports or other programs may use it", "", 1),
    "view-changed": Text("the view gives something else than before", "make a new view beside it", 2),
    "kind-changed": Text("a table became a view, or the other way round: what that does to the running release is not understood", _EXPAND, 3),
    "rewrite": Text("the whole table ({rows} rows) is rewritten while nobody can read or write it", _EXPAND, 3),
    "attach": Text("attached to {parent}: the whole table ({rows} rows) is read under a lock unless a CHECK proves its bounds",
                   "ADD CONSTRAINT … CHECK (the partition's bounds) NOT VALID; VALIDATE CONSTRAINT …; then ATTACH PARTITION", 1),
    "detach": Text("detached from {parent}: its rows are gone from there, and an INSERT of the live release for its range fails, unless there is a default partition", "", 1),
    "drop-partition": Text("its rows ({rows}) are gone for good, and an INSERT of the live release for its range fails, unless there is a default partition", "", 1),
    # constraints and indexes
    "unique": Text("{name}: what the live release writes may be there already (unique {columns}): its INSERTs and UPDATEs fail",
                   "release 1: the code keeps them unique; release 2: CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … UNIQUE USING INDEX", 2),
    "exclusion": Text("{name}: what the live release writes may be excluded: its INSERTs and UPDATEs fail",
                      "release 1: the code keeps to the rule; release 2: the constraint", 2),
    "unique-dropped": Text("{columns} ({name}) are not unique any more: an upsert or get() of the live release fails, and duplicates bar the way back",
                           "drop it one release after the code stopped relying on it", 2),
    "primary-key": Text("the primary key ({name}) is another one than the live release knows", _EXPAND, 3),
    "index-blocks": Text("building {name} blocks writes while it reads the whole table ({rows} rows)", _CONCURRENTLY, 1),
    "index-dropped": Text("without {name} ({columns}) queries of the live release may read the whole table ({rows} rows)",
                          "one release after no query needs it: RemoveIndexConcurrently in a migration with atomic = False", 2),
    "invalid-index": Text("{name} is invalid: building it failed", 'DROP INDEX CONCURRENTLY "{name}", then again', 1),
    "new-check": Text("{name}: the live release does not know this rule and may break it: its writes then fail",
                      "release 1: the code keeps to the rule; release 2: the constraint", 2),
    "new-foreign-key": Text("{name}: the live release does not know this rule and may break it: its writes then fail",
                            "release 1: the code keeps to the rule (db_constraint=False); release 2: the constraint", 2),
    "validates": Text("adding {name} reads the whole table ({rows} rows) under a lock", _CONSTRAINT, 1),
    "validated": Text("{name} is validated without blocking reads or writes"),
    "constraint-dropped": Text("{name} is gone; the way back has to check every row again"),
    "renamed-constraint": Text("{name} is now called {to}"),
    "referenced": Text("{other} refers to it: once the new release has written there, the live one cannot delete what is referred to"),
    # beside the tables
    "trigger": Text("trigger {name} runs, or no longer runs, for both releases", "", 1),
    "policy": Text("row security {name} decides what both releases see", "", 1),
    "function": Text("function {name} changed or is gone; what calls it does something else", "make a new function beside it", 2),
    "enum-label": Text("{name} lost {labels}, which the live release may write", _EXPAND, 3),
    "extension-rights": Text("extension {name} can only be created by a superuser, which the application's role is not",
                             'as a superuser, once: CREATE EXTENSION "{name}"', 0),
    "extension-dropped": Text("extension {name} is gone, with everything of its types", "", 2),
    # what statements and operations say
    "data": Text("rows are changed: {sql}", "in batches, outside of the deploy, where it is more than a few rows", 1),
    "opaque-sql": Text("what it does cannot be seen from here: {sql}", "", 1),
    "rights": Text("rights or roles change: {sql}", "", 1),
    "rebuild": Text("rebuilds under a lock: {sql}", "REINDEX … CONCURRENTLY, or pg_repack", 1),
    "locks": Text("takes a lock of its own and holds it to the end: {sql}", "", 1),
    "no-lock-timeout": Text("waits for its lock without an end, and all traffic queues behind it: {sql}", "leave lock_timeout as it is", 1),
    "python": Text("Python code changes data ({operation}): what it does to real rows cannot be tried here",
                   "a management command that works in batches and can be repeated, after the deploy", 1),
    "not-tried-python": Text("its Python code did not end on an empty copy: {error}", "let it cope with no rows and reach nothing but its database", 1),
    "irreversible": Text("it cannot be undone ({operation})", "give it a reverse: reverse_code=… or reverse_sql=…", 1),
    "noop-reverse": Text("undoing it does nothing ({operation}): what it changed stays", "give it a real reverse, if there is one", 1),
    "mixed": Text("data and schema change in one transaction: its locks are held until all rows are done", "two migrations", 1),
    "half-applied": Text("atomic = False with {count} operations that cannot be repeated: after a failure some stay and it fails again",
                         "one operation in each migration with atomic = False, or IF [NOT] EXISTS", 1),
    "failed": Text("it failed on the copy of the live schema: {error}", "", 1),
    "not-tried": Text("not tried: {error}", "", 1),
    "concurrent-in-transaction": Text("CONCURRENTLY does not work in a transaction: {error}", _CONCURRENTLY, 1),
    "static-sql": Text("raw SQL, and there was no shadow to try it on", "", 1),
    "static-unknown": Text("what {name} does does not follow from the models, and there was no shadow to try it on", "", 1),
    # the plan as a whole
    "does-not-load": Text("the migrations cannot be loaded: {error}", "", 0),
    "conflict": Text("{app} has several leaves: {names}", "makemigrations --merge", 0),
    "history": Text("what is recorded as applied contradicts the dependencies: {error}", "", 0),
    "ahead": Text("the database is ahead: {name} is applied, and this release does not have it", "deploy a release that has it, or record why it is so", 0),
    "left-over": Text("{name} is recorded as applied and gone from the release: squashed, it seems", "migrate --prune {app}", 0),
    "drift": Text("the models changed and no migration does it: {change}", "makemigrations", 0),
    "drift-live": Text("the models changed and no migration does it, in the live release as well: {change}", "makemigrations", 0),
    "file-changed": Text("{name} was applied with another content (sha256 {old}, now {new})", "put the file back, and write a new migration", 0),
    "no-live": Text("no live release is known: only the new one was compared"),
    "engine": Text("{engine} runs migrations in its own way; here its SQL was judged"),
}  # fmt: skip


class _Values(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "…"


def text(finding: Finding) -> Text:
    """The text of a finding. Raises KeyError for a rule without one."""
    plain = TEXTS[finding.rule]
    bare = finding.table.split(".", 1)[-1]
    values = _Values(finding.values)
    values.setdefault("table", finding.table)
    values["bare"], values["column"] = bare, finding.column
    model = finding.values.get("model", "")
    values["removal"] = (
        f"migrations.RemoveField({model.split('.')[-1]!r}, {finding.column!r})"
        if finding.column
        else f"migrations.DeleteModel({model.split('.')[-1]!r})"
    )
    return Text(plain.why.format_map(values), plain.instead.format_map(values), plain.releases)
