//! What people live through, told by simulated phones against a whole Plugtone on loopback.

mod a_new_phone_is_plugged_in;
pub mod office;
mod power_cut;
mod two_people_at_one_adapter;
mod two_phones_one_mac;
mod what_goes_wrong;
