"""Python code in migrations, and plans of several."""

from tests.schema.corpus.case import APPROVAL, REFUSED, SAFE, Case

FILL = """
def forwards(apps, schema_editor):
    apps.get_model("shop", "Order").objects.using(schema_editor.connection.alias).filter(note=None).update(note="")
def back(apps, schema_editor):
    apps.get_model("shop", "Order").objects.using(schema_editor.connection.alias).filter(note="").update(note=None)
"""

CASES = [
    Case("python_with_reverse", APPROVAL, "what it does to real rows cannot be tried", "migrations.RunPython(forwards, back),",
         prelude=FILL, rules=("python",)),
    Case("python_with_noop_reverse", APPROVAL, "what it changed stays", "migrations.RunPython(forwards, migrations.RunPython.noop),",
         prelude=FILL, rules=("python", "noop-reverse")),
    Case("python_without_reverse", APPROVAL, "it cannot be undone", "migrations.RunPython(forwards),", prelude=FILL,
         rules=("python", "irreversible")),
    Case("python_noop", SAFE, "nothing happens", "migrations.RunPython(migrations.RunPython.noop, migrations.RunPython.noop),"),
    Case("python_and_schema", APPROVAL, "data and schema in one transaction", """
        migrations.AddField("Order", "extra", models.TextField(null=True)), migrations.RunPython(forwards, back),
    """, prelude=FILL, rules=("mixed",)),
    Case("python_that_needs_rows", APPROVAL, "it fails on an empty copy, that is no proof", """
        migrations.RunPython(forwards, migrations.RunPython.noop),
    """, prelude="""
def forwards(apps, schema_editor):
    apps.get_model("shop", "Tag").objects.get(word="root")
""", rules=("not-tried-python",)),
    Case("python_that_calls_out", APPROVAL, "it reaches what must not be reached", """
        migrations.RunPython(forwards, migrations.RunPython.noop),
    """, prelude="""
def forwards(apps, schema_editor):
    import urllib.request
    urllib.request.urlopen("http://192.0.2.1/", timeout=5)
""", rules=("not-tried-python",)),
    Case("python_that_hides_that_it_calls_out", APPROVAL, "the attempt is seen though the error is hidden", """
        migrations.RunPython(forwards, migrations.RunPython.noop),
    """, prelude="""
def forwards(apps, schema_editor):
    import socket
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    except OSError:
        pass
""", rules=("not-tried-python",)),
    Case("python_with_a_wrong_name", REFUSED, "it fails on every database", "migrations.RunPython(forwards, back),",
         prelude=FILL.replace('filter(note=None)', 'filter(nota=None)'), rules=("failed",)),
    Case("python_with_a_wrong_model", REFUSED, "it fails on every database", "migrations.RunPython(forwards, back),",
         prelude=FILL.replace('"Order"', '"Ordre"'), rules=("failed",)),
    Case("python_that_drops_a_column", REFUSED, "the live release reads it", "migrations.RunPython(forwards, back),", prelude="""
def forwards(apps, schema_editor):
    schema_editor.execute('ALTER TABLE shop_order DROP COLUMN note')
def back(apps, schema_editor):
    schema_editor.execute('ALTER TABLE shop_order ADD COLUMN note text')
""", rules=("missing-column",)),
    Case("add_fill_tighten_in_one", REFUSED, "the live release's INSERT fails from now on", """
        migrations.AddField("Order", "channel", models.CharField(max_length=9, null=True)),
        migrations.RunPython(forwards, back),
        migrations.AlterField("Order", "channel", models.CharField(max_length=9)),
    """, prelude=FILL, rules=("insert-omits",)),
    Case("add_fill_tighten_in_three", REFUSED, "all three run before the new release serves", (
        """migrations.AddField("Order", "channel", models.CharField(max_length=9, null=True)),""",
        """migrations.RunPython(forwards, back),""",
        """migrations.AlterField("Order", "channel", models.CharField(max_length=9)),""",
    ), prelude=FILL, rules=("insert-omits",)),
    Case("python_not_atomic_twice", APPROVAL, "after a failure the first one stays", """
        migrations.RunPython(forwards, back), migrations.RunPython(forwards, back),
    """, prelude=FILL, loose=(0,), rules=("half-applied",)),
    Case("column_then_its_index", SAFE, "a nullable column, and its index built while nobody waits", (
        """migrations.AddField("Order", "extra", models.TextField(null=True)),""",
        """AddIndexConcurrently("Order", models.Index(fields=["extra"], name="order_extra")),""",
    ), prelude="from django.contrib.postgres.operations import AddIndexConcurrently", loose=(1,), large=("shop_order",)),
    Case("second_one_fails", REFUSED, "the plan does not end", (
        """migrations.AddField("Order", "extra", models.TextField(null=True)),""",
        """migrations.RunSQL("ALTER TABLE shop_order ADD COLUMN extra text", migrations.RunSQL.noop),""",
    ), rules=("failed",)),
    Case("drop_and_put_back", REFUSED, "between the two the live release fails", (
        """migrations.RunSQL("ALTER TABLE shop_order DROP COLUMN note", "ALTER TABLE shop_order ADD COLUMN note text"),""",
        """migrations.RunSQL("ALTER TABLE shop_order ADD COLUMN note text", "ALTER TABLE shop_order DROP COLUMN note"),""",
    ), rules=("missing-column",)),
    Case("operation_of_its_own_safe", SAFE, "it adds a nullable column, whatever its class is", "Mine(),", prelude="""
class Mine(migrations.operations.base.Operation):
    reversible = True
    def state_forwards(self, app_label, state): pass
    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        schema_editor.execute("ALTER TABLE shop_order ADD COLUMN mine text")
    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        schema_editor.execute("ALTER TABLE shop_order DROP COLUMN mine")
"""),
    Case("operation_of_its_own_bad", REFUSED, "it drops a column that is in use", "Mine(),", prelude="""
class Mine(migrations.operations.base.Operation):
    reversible = True
    def state_forwards(self, app_label, state): pass
    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        schema_editor.execute("ALTER TABLE shop_order DROP COLUMN quantity")
    def database_backwards(self, app_label, schema_editor, from_state, to_state): pass
""", rules=("missing-column",)),
]  # fmt: skip
