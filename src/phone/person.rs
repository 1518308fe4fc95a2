//! Somebody with a new phone: lifts the receiver, listens, keys in number and PIN, waits until the phone is theirs, calls.
//!
//! Acts on what is heard, not on what the server says of itself: a prompt is over when speech has turned into silence.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures_util::FutureExt;

use super::{
    audio::Say,
    desk::{News, Order, Phone},
};
use crate::{media::listen::Sound, model::Keys};

/// Quiet after speech that means: the prompt is over, it is my turn.
const PAUSE: Duration = Duration::from_millis(700);
/// How long somebody who knows the voice waits before saying yes once more.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// What went wrong, in the words of somebody who stands at the phone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("waited {0:?} for {1}")]
    TooLong(Duration, &'static str),
    #[error("the call was refused with {0}")]
    Refused(u16),
    #[error("the call ended before {0}")]
    Ended(&'static str),
    #[error("the phone has gone")]
    Gone,
}

/// A phone with somebody at it. `watch` sees all news on their way.
pub struct Person<W> {
    pub phone: Phone,
    watch: W,
    /// What was heard last, in this call.
    sound: Option<Sound>,
    /// For each step.
    pub patience: Duration,
}

impl<W: FnMut(&News)> Person<W> {
    pub fn new(phone: Phone, watch: W) -> Self {
        Self { phone, watch, sound: None, patience: Duration::from_secs(60) }
    }

    /// Waits for news that `wanted` makes something of.
    pub async fn wait<T>(&mut self, what: &'static str, mut wanted: impl FnMut(&News) -> Option<Result<T, Trouble>>) -> Result<T, Trouble> {
        let patience = self.patience;
        within(patience, what, async {
            loop {
                let news = self.phone.news().await.ok_or(Trouble::Gone)?;
                self.notice(&news);
                if let Some(result) = wanted(&news) {
                    return result;
                }
            }
        })
        .await
    }

    /// Until the display shows a line; gives its user.
    pub async fn until_registered(&mut self) -> Result<String, Trouble> {
        self.wait("the phone to register", |news| match news {
            News::Registered { user } => Some(Ok(user.clone())),
            _ => None,
        })
        .await
    }

    /// Until it is registered as `user`.
    pub async fn until_registered_as(&mut self, user: &str) -> Result<(), Trouble> {
        self.wait("the phone to register as its owner", |news| match news {
            News::Registered { user: registered } if registered == user => Some(Ok(())),
            _ => None,
        })
        .await
    }

    /// Calls, and waits until somebody answers.
    pub async fn call(&mut self, to: &str) -> Result<(), Trouble> {
        self.phone.order(Order::Call { to: to.to_owned() }).await;
        self.wait("an answer", |news| match news {
            News::Answered => Some(Ok(())),
            News::CallRefused { status } => Some(Err(Trouble::Refused(*status))),
            News::CallEnded { .. } => Some(Err(Trouble::Ended("it was answered"))),
            _ => None,
        })
        .await
    }

    /// Listens until a sound that `wanted` accepts has begun.
    pub async fn hear(&mut self, what: &'static str, mut wanted: impl FnMut(Sound) -> bool) -> Result<Sound, Trouble> {
        self.wait(what, |news| match news {
            News::Heard(heard) if wanted(heard.sound) => Some(Ok(heard.sound)),
            News::CallEnded { .. } => Some(Err(Trouble::Ended("anything was heard"))),
            _ => None,
        })
        .await
    }

    /// Listens for a sound that `wanted` accepts: one that is there already, or else one that begins.
    pub async fn hear_now_or_soon(&mut self, what: &'static str, mut wanted: impl FnMut(Sound) -> bool) -> Result<Sound, Trouble> {
        while let Some(Some(news)) = self.phone.news().now_or_never() {
            self.notice(&news);
            if matches!(news, News::CallEnded { .. }) {
                return Err(Trouble::Ended("anything was heard"));
            }
        }
        match self.sound.filter(|sound| wanted(*sound)) {
            Some(sound) => Ok(sound),
            None => self.hear(what, wanted).await,
        }
    }

    /// Listens to a prompt to its end: speech, then quiet that lasts.
    pub async fn listen(&mut self) -> Result<(), Trouble> {
        self.hear("the voice", |sound| sound == Sound::Speech).await?;
        let mut quiet_since: Option<Instant> = None;
        let patience = self.patience;
        within(patience, "the voice to end", async {
            loop {
                let rest = quiet_since.map_or(patience, |since| PAUSE.saturating_sub(since.elapsed()));
                let Ok(news) = tokio::time::timeout(rest, self.phone.news()).await else { return Ok(()) };
                let news = news.ok_or(Trouble::Gone)?;
                self.notice(&news);
                match news {
                    News::Heard(heard) if heard.sound == Sound::Silence => quiet_since = Some(Instant::now()),
                    News::Heard(_) => quiet_since = None,
                    News::CallEnded { .. } => return Err(Trouble::Ended("the voice had ended")),
                    _ => {}
                }
            }
        })
        .await
    }

    /// Lets the next thing happen; `false`: the phone has gone.
    pub async fn stay(&mut self) -> bool {
        let news = self.phone.news().await;
        news.iter().for_each(|news| self.notice(news));
        news.is_some()
    }

    fn notice(&mut self, news: &News) {
        match news {
            News::Heard(heard) => self.sound = Some(heard.sound),
            News::Calling { .. } | News::Incoming { .. } | News::CallEnded { .. } => self.sound = None,
            _ => {}
        }
        (self.watch)(news);
    }

    pub async fn press(&mut self, keys: &str) {
        self.phone.order(Order::Press(Keys::from(keys))).await;
    }

    pub async fn say(&mut self, what: Say) {
        self.phone.order(Order::Say(what)).await;
    }

    pub async fn hang_up(&mut self) {
        self.phone.order(Order::HangUp).await;
    }

    pub async fn until_hung_up(&mut self) -> Result<(), Trouble> {
        self.wait("the other side to hang up", |news| matches!(news, News::CallEnded { .. }).then_some(Ok(()))).await
    }

    /// The whole way from a phone that is nobody's: calls the menu, keys in who it is, says yes, waits until it is theirs.
    pub async fn sign_in(&mut self, menu: &str, login: &str, pin: &str, extension: &str) -> Result<(), Trouble> {
        self.call(menu).await?;
        for keys in [login, pin] {
            self.listen().await?;
            self.press(&format!("{keys}#")).await;
        }
        // "One moment", "Is that you?", "Thank you": 1 is right after each, until the voice has said goodbye.
        loop {
            match self.listen().await {
                Ok(()) => self.press("1").await,
                Err(Trouble::Ended(_)) => break,
                Err(trouble) => return Err(trouble),
            }
        }
        self.until_registered_as(extension).await
    }

    /// As [`Self::sign_in`], for somebody who knows the voice: keys all at once when it begins to speak, then says yes
    /// until it hangs up.
    pub async fn sign_in_at_once(&mut self, menu: &str, login: &str, pin: &str, extension: &str) -> Result<(), Trouble> {
        self.call(menu).await?;
        self.hear("the voice", |sound| sound == Sound::Speech).await?;
        self.press(&format!("{login}#{pin}#")).await;
        let patience = self.patience;
        within(patience, "the voice to say goodbye", async {
            loop {
                match tokio::time::timeout(IMPATIENCE, self.until_hung_up()).await {
                    Ok(result) => return result,
                    Err(_) => self.press("1").await,
                }
            }
        })
        .await?;
        self.until_registered_as(extension).await
    }
}

async fn within<T>(patience: Duration, what: &'static str, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(patience, work).await.unwrap_or(Err(Trouble::TooLong(patience, what)))
}
