"""A connection that prepares a statement once; SQLAlchemy does most of it anew for each execution.

What SQLite is given is the same: the same text, the same values. Whatever is not plain goes the way of SQLAlchemy.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult
from sqlalchemy.engine import IteratorResult
from sqlalchemy.schema import CreateIndex, CreateTable

from uploader.ledger.database import driver

# the attributes of a statement that has been executed: its id, as copies of it have its attributes, and its plans
EXECUTED, PLANS = "_simulated_id", "_simulated_plans"
# the text of a definition by its table or index, and whether it may exist
_DEFINITIONS: dict[tuple[Any, bool], str] = {}


class PreparedResult(IteratorResult[Any]):
    """The result of a prepared statement, whose rows are read as they are asked for."""

    def __init__(self, metadata: Any, cursor: sqlite3.Cursor) -> None:
        super().__init__(metadata, cursor)
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement changed."""
        return self._cursor.rowcount

    def _soft_close(self, hard: bool = False, **options: Any) -> None:
        self._cursor.close()
        super()._soft_close(hard, **options)


class Changed:
    """The result of a prepared statement that returns no rows."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


class Plan:
    """A statement as it is executed with parameters of these names.

    Args:
        result: The result of an execution.
        parameters: Its parameters; their values vary.
    """

    def __init__(self, result: CursorResult[Any], parameters: Mapping[str, Any]) -> None:
        context: Any = result.context
        self._compiled = compiled = context.compiled
        self.metadata: Any = result._metadata if result._metadata.returns_rows else None
        self._processors: Mapping[str, Callable[[Any], Any]] = compiled._bind_processors
        keys = {name: parameter.key for parameter, name in compiled.bind_names.items()}
        given = compiled.construct_params(
            parameters, extracted_parameters=context.extracted_parameters, escape_names=False
        )
        self._keys = {name: key for name, key in keys.items() if key in parameters}
        self._constants = {name: given[name] for name in keys if name not in self._keys}
        self._lists = sorted(compiled.bind_names[parameter] for parameter in compiled.post_compile_params)
        # by the lengths of the lists: the text, and how its values are made
        self._texts: dict[tuple[int, ...], tuple[str, Callable[[Mapping[str, Any]], list[Any]]]] = {}
        if not self._lists:
            self._texts[()] = compiled.string, self._maker([(name, None) for name in compiled.positiontup])

    @staticmethod
    def fits(result: CursorResult[Any], *, many: bool) -> bool:
        """Return True where nothing but values changes from one execution to the next."""
        context: Any = result.context
        compiled = context.compiled
        if compiled is None or context.isddl or context.is_text or context.execution_options:
            return False
        is_plain = not (compiled.insert_prefetch or compiled.update_prefetch or compiled.literal_execute_params)
        is_plain &= not (compiled.implicit_returning or context._insertmanyvalues_rows)
        # a list of lists, or a value that is computed for each execution
        is_plain &= all(
            parameter.callable is None and not parameter.type._is_tuple_type for parameter in compiled.bind_names
        )
        return is_plain and not (many and (context.execute_style.name != "EXECUTEMANY"))

    def bind(self, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Return the text and the values for SQLite."""
        if not self._lists:
            text, make = self._texts[()]
            return text, make(given)
        lengths = tuple(
            len(given[self._keys[name]] if name in self._keys else self._constants[name]) for name in self._lists
        )
        found = self._texts.get(lengths)
        if found is None:
            found = self._texts[lengths] = self._expand(given)
        return found[0], found[1](given)

    def _expand(self, given: Mapping[str, Any]) -> tuple[str, Callable[[Mapping[str, Any]], list[Any]]]:
        """Expand the lists to places of the text."""
        every = self._constants | {name: given[key] for name, key in self._keys.items()}
        state = self._compiled._process_parameters_for_postcompile(every)
        place_of = {
            expanded: (name, index)
            for name, all_expanded in state.parameter_expansion.items()
            for index, expanded in enumerate(all_expanded)
        }
        self._processors = {**self._processors, **state.processors}
        return state.statement, self._maker(
            [(*place_of.get(name, (name, None)), state.processors.get(name)) for name in state.positiontup]
        )

    def _maker(self, places: Sequence[tuple[Any, ...]]) -> Callable[[Mapping[str, Any]], list[Any]]:
        """Return a function that makes the values of a text's places from the parameters."""
        constants: list[Any] = []
        # of the places whose value varies: the place, the key, the place in a list, what turns it into SQLite's
        steps = []
        for place, (name, index, *more) in enumerate(places):
            process = more[0] if index is not None else self._processors.get(name)
            constant: Any = None
            if name in self._keys:
                steps.append((place, self._keys[name], index, process))
            else:
                constant = self._constants[name] if index is None else list(self._constants[name])[index]
                constant = constant if process is None else process(constant)
            constants.append(constant)

        def make(given: Mapping[str, Any]) -> list[Any]:
            values = constants.copy()
            for place, key, index, process in steps:
                value = given[key] if index is None else given[key][index]
                values[place] = value if process is None else process(value)
            return values

        return make


class PreparedConnection(Connection):
    """A connection that executes what it has prepared."""

    def execute(self, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
        """Execute a statement; see SQLAlchemy's ``Connection.execute``."""
        transaction = self._transaction
        is_plain = transaction is not None and transaction.is_active and self._nested_transaction is None
        if not is_plain or execution_options is not None or self._has_events:
            return super().execute(statement, parameters, execution_options=execution_options)
        if isinstance(statement, CreateTable | CreateIndex):
            return self._define(statement)
        kept = statement.__dict__
        if kept.get(EXECUTED) != id(statement):
            # many are made anew for each execution: nothing is prepared for those
            kept[EXECUTED], kept[PLANS] = id(statement), {}
            return super().execute(statement, parameters)
        many = isinstance(parameters, list) and len(parameters) > 1
        first = parameters[0] if isinstance(parameters, list) and parameters else parameters
        key, plans = (many, tuple(first) if first else None), kept[PLANS]
        if key not in plans:
            result = super().execute(statement, parameters)
            plans[key] = Plan(result, first or {}) if Plan.fits(result, many=many) else None
            return result
        if plans[key] is None:
            return super().execute(statement, parameters)
        return self._execute_plan(plans[key], parameters if many else [first or {}])

    def _execute_plan(self, plan: Plan, parameters: list[Mapping[str, Any]]) -> Any:
        cursor = driver(self).cursor()
        bound = [plan.bind(each) for each in parameters]
        text, values = bound[0]
        try:
            if len(bound) > 1:
                cursor.executemany(text, [values for _, values in bound])
            else:
                cursor.execute(text, values)
        except sqlite3.Error as error:
            self._handle_dbapi_exception(error, text, None, cursor, None)
        if plan.metadata is None:
            cursor.close()
            return Changed(cursor.rowcount)
        return PreparedResult(plan.metadata, cursor)

    def _define(self, definition: CreateTable | CreateIndex) -> None:
        """Make a table or an index; SQLAlchemy compiles its definition each time."""
        key = definition.element, definition.if_not_exists
        if key not in _DEFINITIONS:
            _DEFINITIONS[key] = str(definition.compile(dialect=self.dialect))
        driver(self).execute(_DEFINITIONS[key])
