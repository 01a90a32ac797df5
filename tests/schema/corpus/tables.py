"""Models: made, dropped, renamed, their options."""

from tests.schema.corpus.case import APPROVAL, BASE, REFUSED, SAFE, Case

GONE = """
    migrations.CreateModel("Old", [("id", models.BigAutoField(primary_key=True)), ("text", models.TextField())]),
    migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel("Old")]),
"""

CASES = [
    Case("create_model", SAFE, "nothing that runs knows the table", """
        migrations.CreateModel("Shipment", [("id", models.BigAutoField(primary_key=True)), ("sent", models.DateField())]),
    """),
    Case("create_model_with_foreign_key", SAFE, "the reference to a live table is checked on an empty one", """
        migrations.CreateModel("Shipment", [("id", models.BigAutoField(primary_key=True)),
            ("order", models.ForeignKey("shop.Order", models.CASCADE))]),
    """, large=("shop_order",)),
    Case("create_model_with_many_to_many", SAFE, "two new tables", """
        migrations.CreateModel("Bundle", [("id", models.BigAutoField(primary_key=True)),
            ("orders", models.ManyToManyField("shop.Order"))]),
    """),
    Case("create_model_with_indexes", SAFE, "indexes of an empty table block nobody", """
        migrations.CreateModel("Shipment", [("id", models.BigAutoField(primary_key=True)), ("sent", models.DateField())]),
        migrations.AddIndex("Shipment", models.Index(fields=["sent"], name="shipment_sent")),
        migrations.AddConstraint("Shipment", models.UniqueConstraint(fields=["sent"], name="shipment_once")),
    """),
    Case("create_child_model", SAFE, "a table of its own, joined to the parent's", """
        migrations.CreateModel("Gift", [("order_ptr", models.OneToOneField("shop.Order", models.CASCADE, parent_link=True,
            primary_key=True, serialize=False)), ("card", models.TextField())], bases=("shop.order",)),
    """),
    Case("create_proxy", SAFE, "no SQL at all", """
        migrations.CreateModel("BigOrder", [], options={"proxy": True}, bases=("shop.order",)),
    """),
    Case("create_unmanaged_without_its_table", REFUSED, "the new release reads a view that nobody makes", """
        migrations.CreateModel("Report", [("id", models.BigAutoField(primary_key=True))],
            options={"managed": False, "db_table": "shop_report"}),
    """, rules=("missing-table",)),
    Case("create_unmanaged_with_its_view", SAFE, "the view is made before", """
        migrations.RunSQL("CREATE VIEW shop_report AS SELECT id FROM shop_order", "DROP VIEW shop_report"),
        migrations.CreateModel("Report", [("id", models.BigAutoField(primary_key=True))],
            options={"managed": False, "db_table": "shop_report"}),
    """),
    Case("delete_model_in_use", REFUSED, "the live release reads the table", """
        migrations.RemoveField("Order", "tags"), migrations.DeleteModel("Tag"),
    """, rules=("missing-table",)),
    Case("delete_model_after_it_left_the_code", APPROVAL, "nothing uses it, the data is gone", """
        migrations.RunSQL("DROP TABLE shop_old", "CREATE TABLE shop_old (id bigserial PRIMARY KEY, text text NOT NULL)"),
    """, base=BASE + GONE, rules=("drop-table",)),
    Case("delete_model_from_the_state_only", SAFE, "the table stays as it is, nothing reads it", """
        migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("Order", "tags"),
            migrations.DeleteModel("Tag")]),
    """),
    Case("rename_model", REFUSED, "the live release asks for the old name", """
        migrations.RenameModel("Order", "Purchase"),
    """, rules=("renamed-table",)),
    Case("rename_model_that_keeps_its_table", SAFE, "only the class has another name", """
        migrations.RenameModel("Old", "Older"),
    """, base=BASE + """
        migrations.CreateModel("Old", [("id", models.BigAutoField(primary_key=True))], options={"db_table": "shop_stays"}),
    """),
    Case("alter_model_table", REFUSED, "the live release asks for the old name", """
        migrations.AlterModelTable("Customer", "shop_people"),
    """, rules=("renamed-table",)),
    Case("alter_model_table_comment", SAFE, "a comment", """migrations.AlterModelTableComment("Customer", "people"),"""),
    Case("alter_model_options", SAFE, "no SQL at all", """
        migrations.AlterModelOptions("Customer", {"ordering": ["name"], "verbose_name": "person"}),
    """),
    Case("alter_model_managers", SAFE, "no SQL at all", """
        migrations.AlterModelManagers("Customer", [("objects", models.Manager())]),
    """),
    Case("alter_order_with_respect_to", REFUSED, "a NOT NULL column that the live release does not write", """
        migrations.AlterOrderWithRespectTo("Order", "customer"),
    """, rules=("insert-omits",)),
    Case("alter_unique_together_add", REFUSED, "the live release may write the same twice", """
        migrations.AlterUniqueTogether("Customer", {("name", "email")}),
    """, rules=("unique",)),
    Case("alter_unique_together_remove", APPROVAL, "the live release relies on it", """
        migrations.AlterUniqueTogether("Pair", set()),
    """, rules=("unique-dropped",), base=BASE + """
        migrations.CreateModel("Pair", [("id", models.BigAutoField(primary_key=True)), ("a", models.IntegerField()),
            ("b", models.IntegerField())], options={"unique_together": {("a", "b")}}),
    """),
    Case("swap_a_table_for_a_view", REFUSED, "what the view does to the live release is not understood", """
        migrations.RunSQL("ALTER TABLE shop_tag RENAME TO shop_word; CREATE VIEW shop_tag AS SELECT * FROM shop_word",
                          "DROP VIEW shop_tag; ALTER TABLE shop_word RENAME TO shop_tag"),
    """, rules=("kind-changed",)),
    Case("made_and_changed_in_one_plan", SAFE, "what the plan itself made has no traffic yet", (
        """migrations.CreateModel("Draft", [("id", models.BigAutoField(primary_key=True)), ("a", models.IntegerField())]),""",
        """migrations.RenameField("Draft", "a", "b"), migrations.AlterField("Draft", "b", models.CharField(max_length=9)),""",
    )),
    Case("model_of_another_schema", SAFE, "a new table in a schema of its own", """
        migrations.RunSQL("CREATE SCHEMA vault", "DROP SCHEMA vault"),
        migrations.CreateModel("Secret", [("id", models.BigAutoField(primary_key=True))],
            options={"db_table": 'vault"."secret'}),
    """),
    Case("create_model_in_state_only", REFUSED, "the new release reads a table that nobody makes", """
        migrations.SeparateDatabaseAndState(state_operations=[
            migrations.CreateModel("Ghost", [("id", models.BigAutoField(primary_key=True))])]),
    """, rules=("missing-table",)),
]  # fmt: skip
