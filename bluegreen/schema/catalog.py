"""The catalog of a PostgreSQL database in one query, 13 and newer."""

# ruff: noqa: S608  the parts are constants of this file

from __future__ import annotations

import json
from typing import Any

from bluegreen.schema.facts import Catalog, Column, Constraint, Index, Table

_OURS = r"n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_OF_EXTENSION = (
    "EXISTS (SELECT FROM pg_depend d WHERE d.objid = {oid} AND d.classid = '{kind}'::regclass AND d.deptype = 'e')"
)

# One row, one value: JSON text. What belongs to an extension is left out.
QUERY = f"""
WITH rel AS MATERIALIZED (
  SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.relfilenode, c.relrowsecurity, c.relispartition
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_OURS} AND NOT {_OF_EXTENSION.format(oid="c.oid", kind="pg_class")}
), att AS MATERIALIZED (
  SELECT a.attrelid, jsonb_agg(jsonb_build_array(
    a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull OR t.typnotnull,
    coalesce(CASE WHEN a.attgenerated = '' THEN pg_get_expr(f.adbin, f.adrelid) END, t.typdefault),
    a.attidentity, a.attgenerated <> '', CASE WHEN a.attcollation <> t.typcollation THEN l.collname ELSE '' END
  ) ORDER BY a.attnum) AS columns
  FROM pg_attribute a JOIN rel ON rel.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
  WHERE a.attnum > 0 AND NOT a.attisdropped GROUP BY 1
)
SELECT json_build_object(
  'tables', (SELECT json_agg(json_build_array(
      rel.name, rel.relkind, coalesce(att.columns, '[]'), rel.relfilenode::bigint, pg_table_is_visible(rel.oid),
      ARRAY(SELECT p.name FROM pg_inherits i JOIN rel p ON p.oid = i.inhparent WHERE i.inhrelid = rel.oid),
      CASE WHEN rel.relkind IN ('v', 'm') THEN md5(pg_get_viewdef(rel.oid)) ELSE '' END, rel.relrowsecurity))
    FROM rel LEFT JOIN att ON att.attrelid = rel.oid),
  'constraints', (SELECT json_agg(json_build_array(
      k.conname, rel.name, k.contype,
      ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY u(num, pos)
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.pos),
      pg_get_constraintdef(k.oid), k.convalidated, coalesce(other.name, '')))
    FROM pg_constraint k JOIN rel ON rel.oid = k.conrelid LEFT JOIN rel other ON other.oid = k.confrelid
    WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND k.conparentid = 0),
  'indexes', (SELECT json_agg(json_build_array(
      n.nspname || '.' || c.relname, rel.name,
      ARRAY(SELECT coalesce(a.attname, '') FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(num, pos)
            LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num AND u.num > 0
            WHERE u.pos <= i.indnkeyatts ORDER BY u.pos),
      pg_get_indexdef(i.indexrelid), i.indisunique, i.indisvalid, i.indpred IS NOT NULL,
      NOT coalesce((to_jsonb(i)->>'indnullsnotdistinct')::boolean, false),
      EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')),
      i.indexrelid::bigint))
    FROM pg_index i JOIN rel ON rel.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT c.relispartition),
  'triggers', (SELECT json_agg(json_build_array(rel.name, g.tgname,
      concat_ws(' ', pg_get_triggerdef(g.oid), g.tgenabled)))
    FROM pg_trigger g JOIN rel ON rel.oid = g.tgrelid WHERE NOT g.tgisinternal),
  'policies', (SELECT json_agg(json_build_array(rel.name, p.polname,
      concat_ws(' ', p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
                pg_get_expr(p.polwithcheck, p.polrelid))))
    FROM pg_policy p JOIN rel ON rel.oid = p.polrelid),
  'functions', (SELECT json_agg(json_build_array(
      n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
      md5(concat_ws(' ', p.prosrc, p.proconfig::text, p.provolatile, p.prosecdef, p.prorettype::regtype))))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE {_OURS} AND NOT {_OF_EXTENSION.format(oid="p.oid", kind="pg_proc")}),
  'enums', (SELECT json_object_agg(name, labels) FROM (
      SELECT n.nspname || '.' || t.typname AS name, array_agg(e.enumlabel ORDER BY e.enumsortorder) AS labels
      FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
      WHERE {_OURS} GROUP BY 1) found),
  'extensions', (SELECT json_object_agg(e.extname, coalesce(
      (SELECT v.trusted OR NOT v.superuser FROM pg_available_extension_versions v
       WHERE v.name = e.extname AND v.version = e.extversion), false)) FROM pg_extension e)
)::text
"""

# Left behind by a CREATE INDEX CONCURRENTLY that failed: table, index.
INVALID = """
SELECT n.nspname || '.' || t.relname, c.relname
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace WHERE NOT i.indisvalid AND c.relkind = 'i' ORDER BY 1, 2
"""

# Live sizes: a partitioned table counts what its partitions hold. Rows are the server's own estimate.
SIZES = f"""
WITH RECURSIVE part AS (
  SELECT c.oid AS root, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'm') AND {_OURS}
  UNION ALL SELECT part.root, i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.oid
)
SELECT coalesce(json_object_agg(n.nspname || '.' || c.relname, json_build_array(
  CASE WHEN found.unknown THEN NULL ELSE found.rows END, found.bytes)), '{{}}')::text
FROM (
  SELECT part.root,
    sum(greatest(leaf.reltuples, s.n_live_tup, 0))::bigint AS rows,
    sum(pg_total_relation_size(part.oid))::bigint AS bytes,
    bool_or(pg_relation_size(part.oid) > 0 AND greatest(leaf.reltuples, 0) + coalesce(s.n_live_tup, 0) = 0) AS unknown
  FROM part JOIN pg_class leaf ON leaf.oid = part.oid LEFT JOIN pg_stat_all_tables s ON s.relid = part.oid GROUP BY 1
) found JOIN pg_class c ON c.oid = found.root JOIN pg_namespace n ON n.oid = c.relnamespace
"""


def parse(text: str) -> Catalog:
    """The answer of QUERY."""
    data: dict[str, Any] = json.loads(text)
    tables = {
        name: Table(
            name, kind, {c[0]: Column(*c) for c in columns}, file, visible, tuple(sorted(parents)), definition, rls
        )
        for name, kind, columns, file, visible, parents, definition, rls in data["tables"] or ()
    }
    constraints = [
        Constraint(name, table, kind, tuple(columns), definition, valid, references)
        for name, table, kind, columns, definition, valid, references in data["constraints"] or ()
        if table in tables
    ]
    indexes = [
        Index(name, table, tuple(columns), definition, unique, valid, partial, distinct, owned, number)
        for name, table, columns, definition, unique, valid, partial, distinct, owned, number in data["indexes"] or ()
    ]
    return Catalog(
        tables,
        {(one.table, one.name): one for one in constraints},
        {one.name: one for one in indexes},
        {(table, name): text for table, name, text in data["triggers"] or ()},
        {(table, name): text for table, name, text in data["policies"] or ()},
        dict(data["functions"] or ()),
        {name: tuple(labels) for name, labels in (data["enums"] or {}).items()},
        dict(data["extensions"] or {}),
    )
