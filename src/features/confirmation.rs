//! What a star code has done, for whoever says so to the one who dialled it.

use super::book::Change;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// What the caller wishes of his telephone.
    Changed(Change),
    /// The office is closed from now on, or as the clock says.
    Night { closed: bool },
    /// Whom it is about; `None`: there is to be no call-back.
    CallBack { to: Option<String> },
    /// Only some may do that.
    NotAllowed,
    /// The number cannot be dialled, or there is no room for another one.
    Impossible,
}
