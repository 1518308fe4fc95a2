//! What people of an office ask of their telephone system: forwards, do not disturb, groups, park places, star codes.
//!
//! One truth, however it is set (`book.rs`): by a star code (`code.rs`), by the API or the command line. The rules of the
//! office come from the configuration (`settings.rs`); what a call does with all this is `call::switch`'s affair. Pure: the
//! book gives out what is to be stored ([`book::Row`]), and takes it back after a restart.

pub mod book;
pub mod call_back;
pub mod code;
pub mod confirmation;
pub mod group;
pub mod paging;
pub mod park;
pub mod settings;

pub use self::{
    book::{Book, Change, Reach, Wishes},
    call_back::{CallBack, CallBacks},
    code::{Code, Codes},
    confirmation::Confirmation,
    group::{Group, Strategy},
    paging::Paging,
    park::Places,
    settings::{Rules, Settings},
};
