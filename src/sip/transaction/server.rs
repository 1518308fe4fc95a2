//! Server transaction of any request but INVITE and ACK (RFC 3261 §17.2.2).
//!
//! ```text
//! Trying ──1xx──► Proceeding ──final──► Done (Completed ──J──► done)
//! ```
//! It has no timers of its own. All users have the same time to answer, and all final answers are kept for as long, so the
//! endpoint has a queue of each; what is left of a transaction in Completed is its answer (`endpoint/answered.rs`).

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Server {
    #[default]
    Trying,
    Proceeding,
    Done,
}

impl Server {
    /// The request came again; returns whether to send the last answer again.
    pub fn handle_request(self) -> bool {
        self == Self::Proceeding
    }

    /// The user answers; returns whether it is to be sent.
    pub fn respond(&mut self, status: u16) -> bool {
        let open = self.is_unanswered();
        if open {
            *self = if status < 200 { Self::Proceeding } else { Self::Done };
        }
        open
    }

    /// Whether the user has not finally answered.
    pub fn is_unanswered(self) -> bool {
        self != Self::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_gets_the_last_provisional_answer_and_there_is_one_final_one() {
        let mut tx = Server::default();
        assert!(!tx.handle_request(), "nothing to repeat yet");
        assert!(tx.respond(100) && tx.handle_request());
        assert!(tx.respond(200) && !tx.is_unanswered());
        assert!(!tx.respond(500), "only one final answer");
    }
}
