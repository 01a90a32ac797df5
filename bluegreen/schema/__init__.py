"""Migrations judged before they run: does the live release, and the new one, fit the schema after each of them?

Unprivileged. Run by a release's own virtualenv, as the application's user, never as root:

    PYTHONPATH=/usr/local/bin/bluegreen <release>/venv/bin/python -m bluegreen.schema VERB   (JSON in, JSON out)

| verb | stdin | answer |
|---|---|---|
| footprint | databases | {format, databases: {alias: footprint}, drift}: what this release expects; no connection |
| read | databases | {format, databases: {alias: bundle}}: live schema, applied migrations, sizes; no rows, no secrets |
| judge | bundle, live, methods, … | the verdicts; runs the release's migrations: behind the wall (wall.UNIT) |
| prepare | server | {databases}: this release's own databases on a throwaway server, all migrations applied |
| plan | all but bundle | read, then judge, each in a process of its own |
| pending | aliases, ledger, live | {pending, plan, problems, unjudged, empty, footprint}: one start of Django |
| run | app, steps | {applied, bridged, failed, known, output}: runs them for good, one at a time (runner.py) |
| dump | alias | a line of JSON, then the bytes of pg_dump (dumping.py) |
| known | databases | {known, apps}: the migrations that this release has; no connection |
| back | bundle, known, apps, ours, older, newer | undoing them, tried on a shadow (backwards.py): behind the wall |
| undo | app, steps, older | undoes them for good, one at a time |
| compare, restore, swap, drop | alias, … | a snapshot put back (restoring.py) |
| fit | kept | {fits: {release: [why not]}}: stored footprints against the schema; no start of Django |

What may stand in the order, all optional but `bundle` for judge:

- `live`: what `footprint` answered for the live release; without it only the new release is compared
- `bundle`: what `read` answered
- `methods`: of cluster, scratch, static, the first that works (default: all three, in this order). With the network
  shut off (wall.UNIT) give ["cluster"]; if that answers with an error, ["scratch", "static"] in a unit with it
- `pg_bin`: directory of PostgreSQL's server programs; `server` {host, port, user, bin}: a throwaway server there is
- `databases`: {alias: {HOST, PORT, NAME, USER, PASSWORD, OPTIONS}} instead of the settings' own
- `ledger`: {"app.name": sha256 of the file as it was applied}; `known_ahead`: ["app.name"] applied, not here
- `aliases`: the databases meant (pending: ["default"]; read: all); `direct`: {alias: {host, port}} past a pooler
- `late`: ["app.name"] that run once the new release is live: tried after all others and judged as if it were (judge);
  pending then also says what each migration `needs`. run: `later`, those that are left out, and their bridges
- `sizes_unknown`: true where the sizes of the database that was read say nothing

The answer: {format, verdict, method: shadow or static, method_detail, why_not_better, problems: [reason], footprint,
seconds, migrations: [{database, app, name, verdict, reasons: [reason], sql, tables: [{name, rows, bytes}], reversible,
late_possible, bridge, late, window_possible, atomic, file, file_sha256, sql_sha256, approval}]}; a reason is {rule,
verdict, table, column, why, instead, releases, line}. Verdicts: safe, needs_approval, refused.
An error is {error: {what, why, next, code}}, with an exit status of errors.Code.

To read it: facts.py (what is known), fits.py and rules.py (what follows), decide.py (the verdict), advice.py (its
words); then catalog.py, models.py, operations.py, tryout.py (where facts come from), shadow.py, wall.py, service.py;
runner.py runs them,
backwards.py undoes them.
"""
