"""What the roastery sells on its first day."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

PRODUCTS = [
    ("morning-blend", "Morning Blend", "Brazil and Ethiopia", "Cocoa, hazelnut, a little orange", 890),
    ("sidamo", "Sidamo", "Ethiopia", "Bergamot, apricot, black tea", 1190),
    ("huila", "Huila", "Colombia", "Red apple, caramel, round", 1050),
    ("antigua", "Antigua", "Guatemala", "Dark chocolate, smoke, plum", 1090),
    ("night-shift", "Night Shift", "India and Uganda", "Heavy, malty, made for espresso", 950),
    ("decaf", "Quiet Decaf", "Mexico", "Milk chocolate, almond, no hurry", 990),
]


def add(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Add the products that are not there yet."""
    product = apps.get_model("orders", "Product")
    for slug, name, origin, taste, price in PRODUCTS:
        product.objects.get_or_create(
            slug=slug, defaults={"name": name, "origin": origin, "taste": taste, "price_cents": price}
        )


class Migration(migrations.Migration):
    dependencies = [("orders", "0001_initial")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
