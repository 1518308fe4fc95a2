//! Mail with a message in it, by SMTP (lettre): what it says, and how it is sent.
//!
//! Not here: which mail is due, and how often one is tried (`worker.rs`).

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Attachment, Mailbox, MultiPart, SinglePart, header::ContentType},
    transport::smtp::authentication::Credentials,
};

use super::settings::{Mail, Tls};
use crate::store::VoiceMessage;

/// For one mail, from the connection to the last answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`voicemail.mail`: {0}")]
    Settings(String),
    /// The server will say the same tomorrow.
    #[error("the mail server refuses the mail: {0}")]
    Refused(String),
    #[error("the mail cannot be sent now: {0}")]
    Later(String),
}

/// Whether this is a mail address, with a name or without.
pub fn address(text: &str) -> Result<Mailbox, String> {
    text.parse().map_err(|fault: lettre::address::AddressError| fault.to_string())
}

pub struct Mailer {
    from: Mailbox,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Mailer {
    pub fn new(mail: &Mail) -> Result<Self, Error> {
        let fault = |fault: lettre::transport::smtp::Error| Error::Settings(fault.to_string());
        let server = mail.server.as_str();
        let builder = match mail.tls {
            Tls::Starttls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(server).map_err(fault)?,
            Tls::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(server).map_err(fault)?,
            Tls::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server),
        };
        let mut builder = builder.timeout(Some(PATIENCE));
        if let Some(port) = mail.port {
            builder = builder.port(port);
        }
        if let Some(user) = &mail.user {
            let password = mail.password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(Self { from: address(&mail.from).map_err(Error::Settings)?, transport: builder.build() })
    }

    pub async fn send(&self, to: &str, message: &VoiceMessage, wav: Vec<u8>) -> Result<(), Error> {
        let mail = self.letter(to, message, wav)?;
        match self.transport.send(mail).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_permanent() => Err(Error::Refused(fault.to_string())),
            Err(fault) => Err(Error::Later(fault.to_string())),
        }
    }

    fn letter(&self, to: &str, message: &VoiceMessage, wav: Vec<u8>) -> Result<Message, Error> {
        let refused = |fault: String| Error::Refused(fault);
        let who = match message.from_name.as_str() {
            "" => message.from.clone(),
            name => format!("{name} ({})", message.from),
        };
        // Names come from phones: one line of them is enough.
        let who: String = who.chars().filter(|c| !c.is_control()).take(100).collect();
        let secs = message.length_ms.div_ceil(1000);
        let text = format!(
            "{who} has left a message for {} at {}.\nIt lasts {secs} s and is attached.\n\n\
             By phone: dial the number of your mailbox. Deleting this mail does not delete the message there.\n",
            message.mailbox, message.left
        );
        let wave = ContentType::parse("audio/wav").map_err(|fault| refused(format!("{fault:?}")))?;
        let attached = Attachment::new(format!("message-{}.wav", message.id)).body(wav, wave);
        Message::builder()
            .from(self.from.clone())
            .to(address(to).map_err(refused)?)
            .subject(format!("Voice message from {who}, {secs} s"))
            // The same message is the same mail, should it be sent twice.
            .message_id(Some(format!("<{}.{}@plugtone>", message.id, message.mailbox)))
            .multipart(MultiPart::mixed().singlepart(SinglePart::plain(text)).singlepart(attached))
            .map_err(|fault| refused(fault.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_who_called_and_carries_the_message() {
        let mail = Mail { server: "localhost".into(), tls: Tls::None, from: "Voicemail <v@example.com>".into(), ..Mail::default() };
        let mailer = Mailer::new(&mail).expect("good settings");
        let message = VoiceMessage {
            id: "7".into(),
            mailbox: "2042".into(),
            from: "2041".into(),
            from_name: "Zoë\r\nBcc: thief@example.com".into(),
            length_ms: 2100,
            ..VoiceMessage::default()
        };
        let letter = mailer.letter("bo@example.com", &message, b"RIFF\xff\x00".to_vec()).expect("a letter").formatted();
        let letter = String::from_utf8(letter).expect("ASCII");
        let head = letter.split("\r\n\r\n").next().expect("a head");
        assert!(head.contains("To: bo@example.com") && head.contains("Subject: ") && head.contains("<7.2042@plugtone>"), "{head}");
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(letter.contains("audio/wav") && letter.contains("message-7.wav") && letter.contains("UklGRv8A"), "{letter}");
        assert!(mailer.letter("no address", &message, Vec::new()).is_err());
    }
}
