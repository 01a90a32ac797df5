"""Indexes, constraints, and what django.contrib.postgres brings."""

from tests.schema.corpus.case import APPROVAL, BASE, REFUSED, SAFE, Case

LARGE = ("shop_order",)
POSTGRES = "from django.contrib.postgres.operations import *\nfrom django.contrib.postgres.indexes import *\n"
INDEX = 'models.Index(fields=["quantity"], name="order_quantity")'
CHECK = "**{__import__('django').VERSION >= (5, 1) and 'condition' or 'check': models.Q(quantity__gt=0)}"

CASES = [
    Case("add_index_small", SAFE, "the index of a small table", f'migrations.AddIndex("Order", {INDEX}),'),
    Case("add_index_large", APPROVAL, "writes wait until it is built", f'migrations.AddIndex("Order", {INDEX}),', large=LARGE,
         rules=("index-blocks",)),
    Case("add_index_concurrently", SAFE, "nobody waits", f'AddIndexConcurrently("Order", {INDEX}),', large=LARGE, loose=(0,),
         prelude=POSTGRES),
    Case("add_index_concurrently_in_a_transaction", REFUSED, "it fails", f'AddIndexConcurrently("Order", {INDEX}),',
         prelude=POSTGRES, rules=("concurrent-in-transaction",)),
    Case("add_two_indexes_concurrently", APPROVAL, "after a failure the first one stays and bars the second try", f"""
        AddIndexConcurrently("Order", {INDEX}),
        AddIndexConcurrently("Order", models.Index(fields=["total"], name="order_total")),
    """, loose=(0,), prelude=POSTGRES, rules=("half-applied",)),
    Case("add_gin_index_small", SAFE, "the index of a small table", """
        migrations.AddIndex("Doc", GinIndex(fields=["body"], name="doc_body")),
    """, prelude=POSTGRES, base=BASE + """migrations.CreateModel("Doc", [("id", models.BigAutoField(primary_key=True)),
        ("body", models.JSONField(null=True))]),"""),
    Case("remove_index_small", SAFE, "a small table needs none", 'migrations.RemoveIndex("Order", "order_number"),'),
    Case("remove_index_large", APPROVAL, "queries of the live release get slow", """
        migrations.RemoveIndex("Plain", "plain_n"),
    """, base=BASE + """migrations.CreateModel("Plain", [("id", models.BigAutoField(primary_key=True)),
        ("n", models.IntegerField())], options={"indexes": [models.Index(fields=["n"], name="plain_n")]}),""",
         large=("shop_plain",), rules=("index-dropped",)),
    Case("remove_index_that_another_covers", SAFE, "the unique one begins with the same column", """
        migrations.RemoveIndex("Order", "order_number"),
    """, large=LARGE),
    Case("remove_index_concurrently", SAFE, "nobody waits", 'RemoveIndexConcurrently("Order", "order_number"),', large=LARGE,
         loose=(0,), prelude=POSTGRES),
    Case("rename_index", SAFE, "only a name", """
        migrations.RenameIndex("Order", new_name="order_by_number", old_name="order_number"),
    """, large=LARGE),
    Case("unique_index_concurrently", REFUSED, "nobody waits, but the live release may write the same twice", """
        migrations.RunSQL("CREATE UNIQUE INDEX CONCURRENTLY one_quantity ON shop_order (quantity)",
                          "DROP INDEX CONCURRENTLY one_quantity"),
    """, loose=(0,), rules=("unique",)),
    Case("unique_that_the_live_models_keep", SAFE, "the live models declare it, the database learns of it", """
        migrations.RunSQL("create unique index concurrently one_name on shop_customer (name)",
                          "drop index concurrently one_name"),
    """, loose=(0,), large=("shop_customer",), base=BASE + """
        migrations.SeparateDatabaseAndState(state_operations=[
            migrations.AlterField("Customer", "name", models.CharField(max_length=100, unique=True))]),"""),
    Case("add_unique_constraint", REFUSED, "the live release may write the same twice", """
        migrations.AddConstraint("Order", models.UniqueConstraint(fields=["placed_at"], name="one_a_time")),
    """, rules=("unique",)),
    Case("add_unique_constraint_with_condition", REFUSED, "the live release may write the same twice", """
        migrations.AddConstraint("Order", models.UniqueConstraint(fields=["placed_at"], condition=models.Q(paid=True),
            name="one_a_time")),
    """, rules=("unique",)),
    Case("add_deferrable_unique_constraint", REFUSED, "the live release may write the same twice", """
        migrations.AddConstraint("Order", models.UniqueConstraint(fields=["placed_at"], name="one_a_time",
            deferrable=models.Deferrable.DEFERRED)),
    """, rules=("unique",)),
    Case("add_unique_constraint_wider_than_one_there_is", SAFE, "code is unique already", """
        migrations.AddConstraint("Order", models.UniqueConstraint(fields=["code", "quantity"], name="code_and_quantity")),
    """),
    Case("add_unique_on_a_new_nullable_column", SAFE, "the live release leaves it NULL, and NULLs differ", """
        migrations.AddField("Order", "ref", models.CharField(max_length=9, null=True)),
        migrations.AddConstraint("Order", models.UniqueConstraint(fields=["ref", "quantity"], name="one_ref")),
    """),
    Case("remove_unique_constraint", APPROVAL, "the live release relies on it", """
        migrations.RemoveConstraint("Order", "order_per_customer"),
    """, rules=("unique-dropped",)),
    Case("add_check_constraint", APPROVAL, "the live release may break it", f"""
        migrations.AddConstraint("Order", models.CheckConstraint(name="some_quantity", {CHECK})),
    """, rules=("new-check",)),
    Case("add_check_constraint_not_valid", APPROVAL, "no scan, but the live release may break it", f"""
        AddConstraintNotValid("Order", models.CheckConstraint(name="some_quantity", {CHECK})),
    """, large=LARGE, prelude=POSTGRES, rules=("new-check",)),
    Case("add_check_on_a_new_column", SAFE, "the live release leaves it NULL", """
        migrations.RunSQL("ALTER TABLE shop_order ADD COLUMN boxes integer; "
                          "ALTER TABLE shop_order ADD CONSTRAINT boxes_some CHECK (boxes > 0) NOT VALID",
                          "ALTER TABLE shop_order DROP COLUMN boxes"),
    """, large=LARGE),
    Case("validate_constraint", SAFE, "reads, and blocks nobody", """
        ValidateConstraint("Order", "some_quantity"),
    """, prelude=POSTGRES, large=LARGE, base=BASE + """
        migrations.RunSQL("ALTER TABLE shop_order ADD CONSTRAINT some_quantity CHECK (quantity > 0) NOT VALID"),"""),
    Case("remove_check_constraint", SAFE, "a rule less", """
        migrations.RunSQL("ALTER TABLE shop_order DROP CONSTRAINT some_quantity",
                          "ALTER TABLE shop_order ADD CONSTRAINT some_quantity CHECK (quantity > 0) NOT VALID"),
    """, base=BASE + """
        migrations.RunSQL("ALTER TABLE shop_order ADD CONSTRAINT some_quantity CHECK (quantity > 0)"),"""),
    Case("add_exclusion_constraint", REFUSED, "the live release may write what overlaps", """
        migrations.AddConstraint("Stay", ExclusionConstraint(name="no_overlap", expressions=[("span", "&&")])),
    """, prelude="from django.contrib.postgres.constraints import ExclusionConstraint", base=BASE + """
        migrations.CreateModel("Stay", [("id", models.BigAutoField(primary_key=True)),
            ("span", __import__("django.contrib.postgres.fields").contrib.postgres.fields.DateRangeField())]),""",
         rules=("exclusion",)),
    Case("add_foreign_key_not_valid", APPROVAL, "no scan, but the live release may write what is not there", """
        migrations.RunSQL("ALTER TABLE shop_order ADD CONSTRAINT q FOREIGN KEY (quantity) REFERENCES shop_tag (id) NOT VALID",
                          "ALTER TABLE shop_order DROP CONSTRAINT q"),
    """, large=LARGE, rules=("new-foreign-key",)),
    Case("trusted_extensions", SAFE, "an owner of the database may create them", """
        TrigramExtension(), HStoreExtension(), CITextExtension(), UnaccentExtension(), BtreeGinExtension(), BtreeGistExtension(),
        CryptoExtension(),
    """, prelude=POSTGRES),
    Case("extension_for_superusers", REFUSED, "the application's role may not create it", "BloomExtension(),", prelude=POSTGRES,
         rules=("extension-rights",)),
    Case("create_collation", SAFE, "nothing uses it", 'CreateCollation("german", provider="icu", locale="de-x-icu"),', prelude=POSTGRES),
    Case("drop_index_of_a_live_query_by_sql", APPROVAL, "queries of the live release get slow", """
        migrations.RunSQL("drop index plain_n", "create index plain_n on shop_plain (n)"),
    """, base=BASE + """migrations.CreateModel("Plain", [("id", models.BigAutoField(primary_key=True)),
        ("n", models.IntegerField())], options={"indexes": [models.Index(fields=["n"], name="plain_n")]}),""",
         large=("shop_plain",), rules=("index-dropped",)),
    Case("primary_key_to_another_column", REFUSED, "the live release addresses rows by the old one", """
        migrations.RunSQL("ALTER TABLE shop_tag DROP CONSTRAINT shop_tag_pkey CASCADE; ALTER TABLE shop_tag ADD PRIMARY KEY (word)",
                          migrations.RunSQL.noop),
    """, rules=("primary-key",)),
]  # fmt: skip
