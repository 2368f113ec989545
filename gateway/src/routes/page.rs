//! Which part of a list is wanted, and whose: the same for every list that comes in pages.

use std::str::FromStr;

use serde::Deserialize;
use shared::Error;

use crate::auth::Caller;

/// Entries of a page, unless the caller says, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

/// A page, as it stands in a query.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wanted {
    pub(super) cursor: Option<String>,
    pub(super) limit: Option<usize>,
    /// For the master alone.
    pub(super) tenant_id: Option<String>,
}

impl Wanted {
    /// Whose list it is, where it begins, and how many entries it has at most.
    ///
    /// # Errors
    /// The caller may not see that tenant's; the cursor is none; that many entries are on no page.
    pub(super) fn of<T: FromStr>(
        self,
        caller: Caller,
    ) -> Result<(Caller, Option<T>, usize), Error> {
        let caller = match self.tenant_id.filter(|tenant| !tenant.is_empty()) {
            Some(tenant) => caller.acting_for(tenant.parse()?)?,
            None => caller,
        };
        let cursor = self.cursor.map(|text| text.parse()).transpose();
        let cursor =
            cursor.map_err(|_| Error::invalid("cursor must be the nextCursor of a page"))?;
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(format!("limit: expected 1 to {MAX_LIMIT}, not {limit}")));
        }
        Ok((caller, cursor, limit))
    }
}
