//! What servers were seen to do wrong with bad input, one test per fault, against the running engine over real sockets. After
//! each of them the server must answer an OPTIONS (`phone::Phone::is_answered`).
//!
//! | fault | held here by | and closer to the code by |
//! |---|---|---|
//! | a nonce that was never issued is accepted | `logins::a_nonce_is_ours_and_each_count_is_good_once` | `sip/digest/verifier.rs` |
//! | a nonce count is replayed | the same | the same |
//! | one user's login registers another's number | `logins::a_login_registers_its_own_number_only` | `sip/registrar.rs` |
//! | an old CSeq changes a binding | `logins::what_comes_late_changes_no_registration` | `sip/registrar.rs` |
//! | guessing passwords costs nothing | `call::who_guesses_is_banned_…` (tests/call.rs) | `sip/guard.rs` |
//! | an unknown Require is ignored | `calls::what_must_be_understood_and_is_not_is_refused` | `sip/screen.rs` |
//! | a merged INVITE makes two calls | `calls::a_call_that_comes_by_two_ways_is_one_call` | `sip/endpoint.rs` |
//! | a second BYE gets 200 | `calls::a_call_ends_once` | `sip/ua/tests.rs` |
//! | OPTIONS goes unanswered | every test here | |
//! | one malformed Via kills the process | `messages::no_via_stops_the_server` | `fuzz/`, target `message` |
//! | RFC 4475 | `messages::the_torture_messages_are_answered_over_sockets` | `rfc::rfc4475` |
//! | 64 KB of Via, nested multiparts | `messages::large_and_deep_messages_cost_their_bytes_only` | `rfc::rfc4475::hostile_sizes_…` |
//! | an announced 4 GB body is read; Content-Length lies; endless headers | `streams::lies_about_length_cost_a_connection_only` | `sip_transport::lies_…`, `sip/transport/framing.rs` |
//! | slow-loris | `streams::who_dawdles_keeps_nobody_out` | `sip_transport::lies_…` |
//! | a phone that retransmits for ever | `patience::a_phone_that_repeats_for_ever_costs_one_answer_each_time` | `sip/transaction/` |
//! | a million mutations of valid messages | `mutations::a_server_takes_messages_however_they_are_spoiled` | `fuzz/` |
//! | calls without a password fill the memory, and their answers somebody else's line | `patience::who_calls_without_a_password_…` | `sip/endpoint.rs` |
//! | three times as many calls as can be taken | `overload::calls_that_are_up_do_not_notice_three_times_too_many` | `sip/screen.rs` |
//! | a phone that sends from a new port each time | `patience::a_phone_from_a_new_port_each_time_is_one_phone` | `sip/transport/rate.rs` |

mod calls;
mod logins;
mod messages;
mod mutations;
pub mod mutator;
mod overload;
mod patience;
mod phone;
mod streams;

use std::time::{Duration, Instant};

use plugtone::{
    call::{self, worker::Load},
    sip,
};
use tempfile::tempdir;

use super::call::Bed;

/// RFC 3261's T1 here; and timer J, until when the same request gets the same answer.
const T1: Duration = Duration::from_millis(20);
const TIMER_J: Duration = Duration::from_millis(64 * 20);

/// An engine whose transactions forget 25 times as fast as RFC 3261 has it, and that waits for slow senders a second only.
async fn bed() -> Bed {
    bed_with(|_| {}).await
}

async fn bed_with(change: impl FnOnce(&mut call::Settings)) -> Bed {
    bed_patient(Duration::from_secs(1), change).await
}

/// The same, with more patience for slow senders.
async fn bed_patient(message_time: Duration, change: impl FnOnce(&mut call::Settings)) -> Bed {
    let anywhere = vec!["127.0.0.1:0".parse().expect("an address")];
    let settings = sip::Settings { udp: anywhere.clone(), tcp: anywhere, ..sip::Settings::default() };
    let mut config = settings.check().expect("settings");
    config.endpoint.timers = sip::transaction::Timers { t1: T1, t2: T1 * 8, t4: T1 * 10 };
    config.transports.message_time = message_time;
    let change = |calls: &mut call::Settings| {
        calls.ring_timeout_secs = 5;
        change(calls);
    };
    Bed::listening(config, tempdir().expect("a folder"), change).await
}

/// Waits until nothing is going on in the engine, and nothing is remembered of what went on.
async fn forgets(bed: &Bed) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let load = bed.running.handle.load().await;
        if load == Load::default() {
            return;
        }
        assert!(Instant::now() < until, "still there: {load:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
