"""Parts for scikit-learn, Lightning and Transformers.

Each framework has a module of its own, which imports the framework: `invmod.integrations.sklearn`,
`invmod.integrations.lightning` and `invmod.integrations.transformers`. Nothing else in the library
imports these modules, so no framework is imported before one of them is.
"""

__all__: list[str] = []
