"""Fields: added, removed, renamed, altered."""

from tests.schema.corpus.case import APPROVAL, BASE, REFUSED, SAFE, Case

LARGE = ("shop_order",)
STATE = "migrations.SeparateDatabaseAndState(state_operations=[{}]),"

CASES = [
    # --- add
    Case("add_nullable", SAFE, "no rewrite, the live release need not know", """
        migrations.AddField("Order", "channel", models.CharField(max_length=20, null=True)),
    """, large=LARGE),
    Case("add_with_default_of_python", REFUSED, "Django drops the default again: the live release's INSERT fails", """
        migrations.AddField("Order", "channel", models.CharField(max_length=20, default="web")),
    """, rules=("insert-omits",)),
    Case("add_json_with_default_of_python", REFUSED, "Django drops the default again", """
        migrations.AddField("Order", "extra", models.JSONField(default=dict)),
    """, rules=("insert-omits",)),
    Case("add_with_one_off_default", REFUSED, "NOT NULL without a default in the database", """
        migrations.AddField("Order", "created", models.DateTimeField(auto_now_add=True,
            default="2026-01-01T00:00:00Z"), preserve_default=False),
    """, rules=("insert-omits",)),
    Case("add_with_db_default", SAFE, "a constant default in the database: no rewrite, INSERTs without it work", """
        migrations.AddField("Order", "channel", models.CharField(max_length=20, db_default="web")),
    """, large=LARGE, django=(5, 0)),
    Case("add_with_db_default_now", SAFE, "now() is the same for all rows: no rewrite", """
        migrations.AddField("Order", "created", models.DateTimeField(db_default=django.db.models.functions.Now())),
    """, large=LARGE, django=(5, 0), prelude="import django.db.models.functions"),
    Case("add_with_volatile_db_default_small", SAFE, "a rewrite of a small table", """
        migrations.AddField("Order", "token", models.UUIDField(db_default=django.contrib.postgres.functions.RandomUUID())),
    """, django=(5, 0), prelude="import django.contrib.postgres.functions"),
    Case("add_with_volatile_db_default_large", APPROVAL, "a rewrite of a large table", """
        migrations.AddField("Order", "token", models.UUIDField(db_default=django.contrib.postgres.functions.RandomUUID())),
    """, large=LARGE, rules=("rewrite",), django=(5, 0), prelude="import django.contrib.postgres.functions"),
    Case("add_foreign_key_small", SAFE, "the index of a small table", """
        migrations.AddField("Order", "parent", models.ForeignKey("shop.Order", models.CASCADE, null=True)),
    """),
    Case("add_foreign_key_large", APPROVAL, "an index and a check that read a large table", """
        migrations.AddField("Order", "parent", models.ForeignKey("shop.Order", models.CASCADE, null=True)),
    """, large=LARGE, rules=("index-blocks",)),
    Case("add_foreign_key_not_null", REFUSED, "the live release does not write it", """
        migrations.AddField("Order", "payer", models.ForeignKey("shop.Customer", models.CASCADE, default=1, related_name="+")),
    """, rules=("insert-omits",)),
    Case("add_many_to_many", SAFE, "a table of its own", """
        migrations.AddField("Customer", "friends", models.ManyToManyField("shop.Customer")),
    """, large=LARGE),
    Case("add_one_to_one_small", SAFE, "unique, but the live release leaves it NULL", """
        migrations.AddField("Customer", "best", models.OneToOneField("shop.Order", models.SET_NULL, null=True, related_name="+")),
    """),
    Case("add_unique_with_db_default", REFUSED, "the second INSERT of the live release gets the same value", """
        migrations.AddField("Customer", "slug", models.CharField(max_length=20, unique=True, db_default="x")),
    """, rules=("unique",), django=(5, 0)),
    Case("add_positive_small", SAFE, "its CHECK reads a small table", """
        migrations.AddField("Order", "boxes", models.PositiveSmallIntegerField(null=True)),
    """),
    Case("add_positive_large", APPROVAL, "its CHECK reads a large table under a lock", """
        migrations.AddField("Order", "boxes", models.PositiveSmallIntegerField(null=True)),
    """, large=LARGE, rules=("validates",)),
    Case("add_generated_small", SAFE, "computed by the database; the rewrite is small", """
        migrations.AddField("Order", "half", models.GeneratedField(expression=models.F("quantity") / 2,
            output_field=models.IntegerField(), db_persist=True)),
    """, django=(5, 0)),
    Case("add_generated_large", APPROVAL, "all rows are computed under a lock", """
        migrations.AddField("Order", "half", models.GeneratedField(expression=models.F("quantity") / 2,
            output_field=models.IntegerField(), db_persist=True)),
    """, large=LARGE, rules=("rewrite",), django=(5, 0)),
    Case("add_array_and_json", SAFE, "nullable, whatever the type", """
        migrations.AddField("Order", "marks", django.contrib.postgres.fields.ArrayField(models.IntegerField(), null=True)),
        migrations.AddField("Order", "span", django.contrib.postgres.fields.DateRangeField(null=True)),
        migrations.AddField("Order", "extra", models.JSONField(null=True)),
    """, large=LARGE, prelude="import django.contrib.postgres.fields"),
    # --- remove
    Case("remove_in_use", REFUSED, "the live release reads and writes it", """migrations.RemoveField("Order", "quantity"),""",
         rules=("missing-column",)),
    Case("remove_nullable_in_use", REFUSED, "the live release reads and writes it", """migrations.RemoveField("Order", "note"),""",
         rules=("missing-column",)),
    Case("remove_foreign_key_in_use", REFUSED, "the live release joins by it", """migrations.RemoveField("Order", "customer"),"""),
    Case("remove_many_to_many_in_use", REFUSED, "the live release reads the table between", """
        migrations.RemoveField("Order", "tags"),
    """, rules=("missing-table",)),
    Case("remove_from_state_only_not_null", REFUSED, "the new release's INSERT leaves a NOT NULL column out",
         STATE.format("""migrations.RemoveField("Order", "quantity")"""), rules=("insert-omits",)),
    Case("remove_from_state_only_nullable", SAFE, "the column stays, NULL from now on",
         STATE.format("""migrations.RemoveField("Order", "note")""")),
    Case("remove_from_state_after_a_default", SAFE, "the column stays and fills itself", """
        migrations.RunSQL("ALTER TABLE shop_order ALTER COLUMN quantity SET DEFAULT 0",
                          "ALTER TABLE shop_order ALTER COLUMN quantity DROP DEFAULT"),
    """ + STATE.format("""migrations.RemoveField("Order", "quantity")""")),
    Case("drop_column_after_it_left_the_code", APPROVAL, "nothing uses it, the data is gone", """
        migrations.RunSQL("ALTER TABLE shop_order DROP COLUMN note", "ALTER TABLE shop_order ADD COLUMN note text"),
    """, base=BASE + STATE.format("""migrations.RemoveField("Order", "note")"""), rules=("drop-column",)),
    # --- rename
    Case("rename_field", REFUSED, "the live release asks for the old name", """migrations.RenameField("Order", "note", "remark"),""",
         rules=("renamed-column",)),
    Case("rename_field_that_keeps_its_column", SAFE, "only Python has another name", STATE.format(
        """migrations.RenameField("Order", "note", "remark"),
           migrations.AlterField("Order", "remark", models.TextField(null=True, db_column="note"))""")),
    Case("rename_column_only", REFUSED, "the live release asks for the old name", """
        migrations.AlterField("Order", "note", models.TextField(null=True, db_column="remark")),
    """, rules=("renamed-column",)),
    # --- alter: NULL
    Case("null_to_not_null", REFUSED, "the live release may write NULL", """
        migrations.AlterField("Order", "note", models.TextField()),
    """, rules=("not-null",)),
    Case("null_to_not_null_with_default", REFUSED, "the live release writes NULL itself, a default does not help", """
        migrations.AlterField("Order", "note", models.TextField(default="")),
    """, rules=("not-null",)),
    Case("null_to_not_null_with_db_default", REFUSED, "the live release writes NULL itself, a default does not help", """
        migrations.AlterField("Order", "note", models.TextField(db_default="")),
    """, rules=("not-null",), django=(5, 0)),
    Case("not_null_to_null", APPROVAL, "the live release does not expect NULL", """
        migrations.AlterField("Order", "quantity", models.IntegerField(null=True)),
    """, rules=("may-read-null",)),
    Case("set_not_null_that_the_code_keeps_small", SAFE, "the live model is NOT NULL already, the table is small", """
        migrations.RunSQL("ALTER TABLE shop_order ALTER COLUMN note SET NOT NULL",
                          "ALTER TABLE shop_order ALTER COLUMN note DROP NOT NULL"),
    """, base=BASE + STATE.format("""migrations.AlterField("Order", "note", models.TextField())""")),
    Case("set_not_null_that_the_code_keeps_large", APPROVAL, "it reads a large table under a lock", """
        migrations.RunSQL("ALTER TABLE shop_order ALTER COLUMN note SET NOT NULL",
                          "ALTER TABLE shop_order ALTER COLUMN note DROP NOT NULL"),
    """, base=BASE + STATE.format("""migrations.AlterField("Order", "note", models.TextField())"""), large=LARGE,
         rules=("not-null-scan",)),
    Case("set_not_null_proven_by_a_check", SAFE, "a valid CHECK spares the scan", """
        migrations.RunSQL("ALTER TABLE shop_order ALTER COLUMN note SET NOT NULL",
                          "ALTER TABLE shop_order ALTER COLUMN note DROP NOT NULL"),
    """, base=BASE + STATE.format("""migrations.AlterField("Order", "note", models.TextField())""") + """
        migrations.RunSQL("ALTER TABLE shop_order ADD CONSTRAINT note_there CHECK (note IS NOT NULL)"),
    """, large=LARGE),
    # --- alter: type
    Case("varchar_longer", SAFE, "no rewrite, all values fit", """
        migrations.AlterField("Order", "number", models.CharField(max_length=40)),
    """, large=LARGE),
    Case("varchar_to_text", SAFE, "no rewrite, all values fit", """migrations.AlterField("Order", "number", models.TextField()),""",
         large=LARGE),
    Case("varchar_shorter", REFUSED, "the live release writes longer values", """
        migrations.AlterField("Order", "number", models.CharField(max_length=10)),
    """, rules=("type-narrower",)),
    Case("text_to_varchar", REFUSED, "the live release writes longer values", """
        migrations.AlterField("Order", "note", models.CharField(max_length=200, null=True)),
    """, rules=("type-narrower",)),
    Case("integer_to_bigint", APPROVAL, "the table is rewritten, the way back narrows", """
        migrations.AlterField("Order", "quantity", models.BigIntegerField()),
    """, rules=("type-larger",)),
    Case("bigint_to_integer", REFUSED, "the live release may write larger numbers", """
        migrations.AlterField("Big", "n", models.IntegerField()),
    """, base=BASE + """migrations.CreateModel("Big", [("id", models.BigAutoField(primary_key=True)), ("n", models.BigIntegerField())]),""",
         rules=("type-narrower",)),
    Case("auto_to_big_auto", APPROVAL, "the table and what refers to it are rewritten", """
        migrations.AlterField("Tag", "id", models.BigAutoField(primary_key=True)),
    """, rules=("type-larger",)),
    Case("integer_to_text", REFUSED, "the live release reads and writes numbers", """
        migrations.AlterField("Order", "quantity", models.CharField(max_length=20)),
    """, rules=("type-changed",)),
    Case("datetime_to_date", REFUSED, "another type, and the time is lost", """
        migrations.AlterField("Order", "placed_at", models.DateField(db_index=True)),
    """, rules=("type-changed",)),
    Case("decimal_more_digits", SAFE, "no rewrite, all values fit", """
        migrations.AlterField("Order", "total", models.DecimalField(max_digits=14, decimal_places=2)),
    """, large=LARGE),
    Case("decimal_more_places", APPROVAL, "the table is rewritten", """
        migrations.AlterField("Order", "total", models.DecimalField(max_digits=14, decimal_places=4)),
    """, rules=("type-larger",)),
    Case("decimal_fewer_digits", REFUSED, "the live release writes larger values", """
        migrations.AlterField("Order", "total", models.DecimalField(max_digits=8, decimal_places=2)),
    """, rules=("type-narrower",)),
    Case("boolean_to_integer", REFUSED, "another type", """
        migrations.RunSQL("ALTER TABLE shop_order ALTER COLUMN paid TYPE integer USING paid::integer",
                          "ALTER TABLE shop_order ALTER COLUMN paid TYPE boolean USING paid::integer::boolean"),
    """, rules=("type-changed",)),
    Case("collation", APPROVAL, "another order, and the indexes are rebuilt", """
        migrations.AlterField("Customer", "name", models.CharField(max_length=100, db_collation="C")),
    """, rules=("collation",)),
    # --- alter: the rest
    Case("alter_choices_help_default", SAFE, "no SQL at all", """
        migrations.AlterField("Order", "quantity", models.IntegerField(default=1, help_text="how many", choices=[(1, "one")])),
    """),
    Case("alter_db_comment", SAFE, "a comment", """
        migrations.AlterField("Order", "quantity", models.IntegerField(db_comment="how many")),
    """),
    Case("alter_on_delete", SAFE, "no SQL at all", """
        migrations.AlterField("Order", "customer", models.ForeignKey("shop.Customer", models.PROTECT)),
    """),
    Case("add_db_index_small", SAFE, "the index of a small table", """
        migrations.AlterField("Order", "quantity", models.IntegerField(db_index=True)),
    """),
    Case("add_db_index_large", APPROVAL, "writes wait until it is built", """
        migrations.AlterField("Order", "quantity", models.IntegerField(db_index=True)),
    """, large=LARGE, rules=("index-blocks",)),
    Case("remove_db_index_small", SAFE, "a small table needs none", """
        migrations.AlterField("Order", "placed_at", models.DateTimeField()),
    """),
    Case("remove_db_index_large", APPROVAL, "queries of the live release get slow", """
        migrations.AlterField("Order", "placed_at", models.DateTimeField()),
    """, large=LARGE, rules=("index-dropped",)),
    Case("add_unique", REFUSED, "the live release may write the same twice", """
        migrations.AlterField("Order", "quantity", models.IntegerField(unique=True)),
    """, rules=("unique",)),
    Case("remove_unique", APPROVAL, "the live release relies on it", """
        migrations.AlterField("Order", "code", models.CharField(max_length=20)),
    """, rules=("unique-dropped",)),
    Case("foreign_key_to_one_to_one", REFUSED, "the live release may write the same twice", """
        migrations.AlterField("Order", "customer", models.OneToOneField("shop.Customer", models.CASCADE)),
    """, rules=("unique",)),
    Case("one_to_one_to_foreign_key", APPROVAL, "the live release relies on it", """
        migrations.AlterField("Card", "customer", models.ForeignKey("shop.Customer", models.CASCADE)),
    """, base=BASE + """migrations.CreateModel("Card", [("id", models.BigAutoField(primary_key=True)),
        ("customer", models.OneToOneField("shop.Customer", models.CASCADE))]),""", rules=("unique-dropped",)),
    Case("integer_to_positive", APPROVAL, "the live release may write a negative number", """
        migrations.AlterField("Order", "quantity", models.PositiveIntegerField()),
    """, rules=("new-check",)),
    Case("positive_to_integer", SAFE, "a rule less", """
        migrations.AlterField("Order", "weight", models.IntegerField(default=0)),
    """),
    Case("foreign_key_gets_its_constraint", APPROVAL, "the live release may write what is not there", """
        migrations.AlterField("Loose", "customer", models.ForeignKey("shop.Customer", models.CASCADE)),
    """, base=BASE + """migrations.CreateModel("Loose", [("id", models.BigAutoField(primary_key=True)),
        ("customer", models.ForeignKey("shop.Customer", models.CASCADE, db_constraint=False))]),""", rules=("new-foreign-key",)),
    Case("foreign_key_loses_its_constraint", SAFE, "a rule less", """
        migrations.AlterField("Order", "customer", models.ForeignKey("shop.Customer", models.CASCADE, db_constraint=False)),
    """),
    Case("db_default_added", SAFE, "the live release does not mind", """
        migrations.AlterField("Order", "quantity", models.IntegerField(db_default=1)),
    """, django=(5, 0)),
    Case("db_default_removed", REFUSED, "the live release writes DEFAULT and gets NULL", """
        migrations.AlterField("Kind", "n", models.IntegerField(default=1)),
    """, base=BASE + """migrations.CreateModel("Kind", [("id", models.BigAutoField(primary_key=True)),
        ("n", models.IntegerField(db_default=1))]),""", rules=("lost-default",), django=(5, 0)),
    Case("model_changed_without_migration", REFUSED, "the new release writes longer values than the column takes", """
        migrations.AddField("Order", "channel", models.CharField(max_length=20, null=True)),
    """, new="""migrations.AlterField("Order", "number", models.CharField(max_length=99)),""", rules=("too-narrow",)),
]  # fmt: skip
